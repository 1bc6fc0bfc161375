import BorgFormat
import ContentHash
import Storage

/// What is done to one object, to one directory, or to the store as a whole.
extension Service {
  // MARK: Reading

  func get(_ head: RequestHead) throws(Refusal) -> Answer {
    let store = try store()
    if head.isDirectory { return try list(Self.path(head.name), in: store) }
    let path = try Self.objectPath(head.name)
    try access.require(.read, at: path, to: "read")
    let object = try open(path, in: store)
    var range = 0..<object.size
    var fields: [(name: String, value: String)] = []
    let wanted = try head.value("range").flatMap { field throws(Refusal) in try ByteRange(field) }
    if let wanted {
      range = wanted.bytes(of: object.size)
      if !range.isEmpty {
        fields = [
          (name: "Content-Range", value: "bytes \(range.lowerBound)-\(range.upperBound - 1)/\(object.size)")
        ]
      }
    }
    let pieces =
      range.isEmpty ? [] : [Answer.Piece(object: object, offset: range.lowerBound, count: range.count)]
    return .success(
      wanted == nil ? 200 : 206, type: "application/octet-stream", fields: fields, .pieces(pieces))
  }

  private func open(_ path: StorePath, in store: any PathStore) throws(Refusal) -> any StoredObject {
    do throws(ServeError) {
      guard let object = try store.open(path) else { throw .storeObjectMissing(path.text) }
      return object
    } catch  where error.isBelowObject {
      throw Self.missing(path)
    } catch {
      throw Refusal(error)
    }
  }

  private func list(_ path: StorePath, in store: any PathStore) throws(Refusal) -> Answer {
    try access.require(.list, at: path, to: "list")
    let entries: [StoreEntry]?
    do {
      entries = try store.entries(in: path)
    } catch  where error.isBelowObject {
      guard try Self.entry(path, in: store) == nil else {
        throw Refusal(409, "this is no directory: \(path.text)")
      }
      entries = nil
    } catch {
      throw Refusal(error)
    }
    guard let entries else { throw Self.missing(path) }
    return .success(type: "application/json", .bytes(Listing.json(entries)))
  }

  func info(_ name: String) throws(Refusal) -> Answer {
    let store = try store()
    let path = try Self.path(name)
    try access.require([.list, .read], at: path, to: "look at")
    guard let entry = try Self.entry(path, in: store) else { throw Self.missing(path) }
    return .success(
      fields: [
        (name: "X-BorgStore-Is-Directory", value: "\(entry.isDirectory)"),
        (name: "X-BorgStore-Atime", value: Listing.seconds(entry.accessed)),
        (name: "X-BorgStore-Mtime", value: Listing.seconds(entry.modified)),
      ], contentLength: entry.size)
  }

  func hash(_ name: String, _ algorithm: String?) throws(Refusal) -> Answer {
    guard !name.isEmpty else { throw Refusal(400, "Missing name for hash") }
    let store = try store()
    let path = try Self.path(name)
    guard let algorithm = HashAlgorithm(name: algorithm ?? "sha256") else {
      throw Refusal(400, "unknown hash algorithm: \((algorithm ?? "").shortened)")
    }
    try access.require(.read, at: path, to: "read")
    let object = try open(path, in: store)
    var hasher = ContentHasher(algorithm)
    var buffer = [UInt8](repeating: 0, count: min(max(object.size, 1), Limits.readBlock))
    var offset = 0
    while offset < object.size {
      let position = offset
      let count = try Refusal.naming { () throws(ServeError) in try object.read(at: position, into: &buffer) }
      guard count > 0 else { throw Refusal(500, "\(path.text) ends after \(offset) of \(object.size) bytes") }
      hasher.update(buffer, 0..<count)
      offset += count
    }
    return .success(type: "text/plain", .bytes(Array(hasher.finalize().hex.utf8)))
  }

  func quota() throws(Refusal) -> Answer {
    _ = try store()
    let quota = try Refusal.naming { () throws(ServeError) in try place.quota() }
    let text =
      quota.map { "{\"limit\": \($0.limit), \"usage\": \($0.usage)}" } ?? "{\"limit\": -1, \"usage\": -1}"
    return .success(type: "application/json", .bytes(Array(text.utf8)))
  }

  // MARK: Changing

  func create() throws(Refusal) -> Answer {
    try access.require([.create, .overwrite], at: .root, to: "create")
    try Refusal.naming { () throws(ServeError) in try place.create() }
    return .success()
  }

  func move(_ name: String?, to newName: String?) throws(Refusal) -> Answer {
    guard let name, let newName else { throw Refusal(400, "Missing current or new name for move") }
    let store = try store()
    let (path, newPath) = (try Self.objectPath(name), try Self.objectPath(newName))
    try access.require(.delete, at: path, to: "move")
    let other = try Self.entry(newPath, in: store)
    try access.require(
      other == nil ? [.create, .overwrite] : .overwrite, at: newPath, to: "move an object to")
    if access.guardsRepository, !BorgName.isSoftDeletion(path, to: newPath) {
      throw Refusal(403, "not permitted: to move \(path.text) to \(newPath.text)")
    }
    if other?.isDirectory == true { throw Self.isDirectory(newPath) }
    if try Self.entry(path, in: store)?.isDirectory == true { throw Self.isDirectory(path) }
    let wasThere = try Refusal.naming { () throws(ServeError) in try store.move(path, to: newPath) }
    guard wasThere else { throw Self.missing(path) }
    return .success()
  }

  func makeDirectory(_ name: String) throws(Refusal) -> Answer {
    let store = try store()
    let path = try Self.path(name)
    try access.require(.create, at: path, to: "make")
    if access.guardsRepository, !BorgName.isDirectory(path) {
      throw Refusal(403, "not permitted: to make \(path.text), which is no directory of Borg's")
    }
    try Refusal.naming { () throws(ServeError) in try store.makeDirectory(path) }
    return .success()
  }

  func delete(_ head: RequestHead, _ query: Query) throws(Refusal) -> Answer {
    switch query["cmd"] {
    case "rmdir": return try removeDirectory(head.name)
    case "destroy":
      try access.require(.delete, at: .root, to: "destroy")
      try Refusal.naming { () throws(ServeError) in try place.destroy() }
      return .success()
    default: break
    }
    guard !head.name.isEmpty else { throw Refusal(400, "a name is missing") }
    let store = try store()
    let path = try Self.path(head.name)
    try access.require(.delete, at: path, to: "delete")
    do throws(ServeError) {
      guard try store.remove(path) else { throw .storeObjectMissing(path.text) }
    } catch  where error.isBelowObject {
      throw Self.missing(path)
    } catch {
      throw Refusal(error)
    }
    return .success()
  }

  private func removeDirectory(_ name: String) throws(Refusal) -> Answer {
    guard !name.isEmpty else { throw Refusal(400, "a name is missing") }
    let store = try store()
    let path = try Self.path(name)
    try access.require([.create, .delete], at: path, to: "remove")
    let wasThere = try Refusal.naming { () throws(ServeError) in try store.removeDirectory(path) }
    guard wasThere else { throw Self.missing(path) }
    return .success()
  }
}
