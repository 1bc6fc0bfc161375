public import BorgFormat
public import ObjectRepository
public import Storage

/// The open repository as far as the session's client may use it: every request for it passes here once, before
/// the engine, whose own reads and writes (locks, checkpoints, indexes) are not the client's. What concerns the
/// repository as a whole is decided in `Session`.
///
/// In the mode `all` it hands everything through. In the others `Policy` decides, `WriteRules` look at what is to
/// be stored, and what others rely on needs the lock that stock clients have then. Blocking, as the engine is.
public struct GrantedRepository: Sendable {
  private let repository: ObjectRepository
  private let mode: Permissions

  init(_ repository: ObjectRepository, mode: Permissions) {
    self.repository = repository
    self.mode = mode
  }

  /// 32 bytes.
  public var id: [UInt8] { repository.id }

  public func availableSpace() -> UInt64? { repository.availableSpace() }

  /// Renews the lock if that is due; throws `lockTimeout` if somebody broke it.
  public func refreshLock() throws(ServeError) { try repository.refreshLock() }

  /// See `ObjectRepository.noteUnstored`.
  public func noteUnstored(_ error: ServeError) { repository.noteUnstored(error) }

  // MARK: Repository objects

  /// Verifies all objects; needs to read them, to write the checkpoint and, for a repair, to delete.
  public func check(_ request: ObjectRepository.CheckRequest) throws(ServeError) -> Bool {
    guard mode != .all else { return try repository.check(request) }
    let isReadable = Policy.decide(mode, .read, at: .namespace(.data)) == .granted
    guard isReadable, Policy.decide(mode, .delete, at: .namespace(.cache)) == .granted else {
      throw mode.denial(of: "checking the repository")
    }
    if request.repairs, Policy.decide(mode, .delete, at: .namespace(.data)) != .granted {
      throw mode.denial(of: "repairing the repository")
    }
    // It ends with an index of what it has seen; nobody may delete meanwhile.
    guard repository.isLocked.exclusive else { throw mode.denial(of: "checking without an exclusive lock") }
    return try repository.check(request)
  }

  public func list(after marker: ObjectID?, limit: Int) throws(ServeError) -> [ListedID] {
    try require(.list, Namespace.data.rawValue, at: .namespace(.data))
    return try repository.list(after: marker, limit: limit)
  }

  public func get(_ id: ObjectID, readsData: Bool = true) throws(ServeError) -> ObjectRepository.Content? {
    guard mode != .all else { return try repository.get(id, readsData: readsData) }
    switch Policy.decide(mode, .read, at: .namespace(.data)) {
    case .granted: return try repository.get(id, readsData: readsData)
    case .answersMissing:
      try repository.refreshLock()
      return nil
    case .denied, .keepsWhole: throw mode.denial(of: "reading \(StoreName(id: id).text)")
    }
  }

  public func put(_ id: ObjectID, _ content: ObjectContent, size: Int) throws(ServeError) {
    guard mode != .all else { return try repository.put(id, content, size: size) }
    switch try admission(of: StoreName(id: id), content, size) {
    case .kept:
      // Gone since it was looked at: then what was sent has to be looked at.
      guard try repository.adopt(id) else { return try put(id, content, size: size) }
      content.abandon()
    case .new: try repository.put(id, content, size: size, keepsOther: true)
    case .replacement: try repository.put(id, content, size: size)
    }
  }

  /// Deletes a repository object; false if there was none.
  public func delete(_ id: ObjectID) throws(ServeError) -> Bool {
    try require(.delete, StoreName(id: id))
    return try repository.delete(id)
  }

  // MARK: Other objects

  public func manifest() throws(ServeError) -> ObjectRepository.Content {
    try require(.read, RepositoryLayout.manifestName)
    return try repository.manifest()
  }

  public func loadKey() throws(ServeError) -> ObjectRepository.Content {
    try require(.read, RepositoryLayout.keyName)
    return try repository.loadKey()
  }

  public func storeList(_ directory: String, deleted: Bool) throws(ServeError) -> [ListedObject] {
    let top = directory.utf8.split(separator: UInt8(ascii: "/")).first.flatMap { String($0) }
    let place = top.flatMap(Namespace.init(rawValue:)).map(Policy.Place.namespace) ?? .root
    try require(.list, directory, at: place)
    return try repository.storeList(directory, deleted: deleted)
  }

  public func storeLoad(_ name: StoreName) throws(ServeError) -> ObjectRepository.Content {
    if case .id(let id) = name.key, !name.isDeleted {
      guard let content = try get(id) else { throw .storeObjectMissing(repository.nested(name)) }
      return content
    }
    try require(.read, name)
    return try repository.storeLoad(name)
  }

  public func storeStore(_ name: StoreName, _ content: ObjectContent, size: Int) throws(ServeError) {
    if mode != .all {
      if case .id(let id) = name.key, !name.isDeleted { return try put(id, content, size: size) }
      _ = try admission(of: name, content, size)
    }
    try repository.storeStore(name, content, size: size)
  }

  public func storeDelete(_ name: StoreName) throws(ServeError) {
    try require(.delete, name)
    if mode != .all, name.namespace == .locks {
      guard try repository.deleteStaleLock(name) else {
        throw mode.denial(of: "deleting \(name.text), a lock in use,")
      }
    } else {
      try repository.storeDelete(name)
    }
  }

  /// Outside of `all` nothing is moved, nor marked as deleted, nor brought back: an index that names what has been
  /// deleted meanwhile would come back unseen.
  public func storeMove(_ name: StoreName, to newName: StoreName) throws(ServeError) {
    guard mode == .all else {
      let verb = newName.isDeleted ? "deleting" : name.isDeleted ? "undeleting" : "moving"
      throw mode.denial(of: "\(verb) \(name.text)")
    }
    try repository.storeMove(name, to: newName)
  }

  // MARK: Locks

  /// Removes all locks; outside of `all` only stale ones, and throws if others are left.
  public func breakLock() throws(ServeError) {
    guard mode != .all else { return try repository.breakLock() }
    let left = try repository.breakStaleLocks()
    guard left == 0 else {
      throw mode.denial(of: "breaking \(left == 1 ? "a lock" : "\(left) locks") in use")
    }
  }

  // MARK: Decisions

  private func require(_ operation: Policy.Operation, _ name: StoreName) throws(ServeError) {
    try require(operation, name.text, at: .namespace(name.namespace))
  }

  private func require(
    _ operation: Policy.Operation, _ name: @autoclosure () -> String, at place: Policy.Place
  ) throws(ServeError) {
    guard mode == .all || Policy.decide(mode, operation, at: place) == .granted else {
      let verb =
        switch operation {
        case .list: "listing"
        case .read: "reading"
        case .store: "storing"
        case .delete: "deleting"
        }
      throw mode.denial(of: "\(verb) \(name())")
    }
  }

  /// How an object is stored in a mode other than `all`.
  private enum Admission {
    /// There is none; should somebody else be faster, theirs stays.
    case new
    /// In place of the one that is there.
    case replacement
    /// The one that is there stays, and counts as stored.
    case kept
  }

  /// Throws if the client may not store the object, or if what it sent is not what belongs there.
  private func admission(of name: StoreName, _ content: ObjectContent, _ size: Int) throws(ServeError)
    -> Admission
  {
    if [.archives, .cache, .data].contains(name.namespace), !repository.isLocked.shared {
      throw mode.denial(of: "storing \(name.text) without a lock")
    }
    let exists = try repository.exists(name)
    switch Policy.decide(mode, .store, at: .namespace(name.namespace), exists: exists) {
    case .granted: break
    case .keepsWhole where try !repository.isWhole(name): break
    case .keepsWhole: return .kept
    case .answersMissing, .denied:
      throw mode.denial(of: "\(exists ? "overwriting" : "storing") \(name.text)")
    }
    guard try WriteRules(repository: repository).admits(name, content, size: size, exists: exists) else {
      throw mode.denial(of: "storing \(name.text)")
    }
    return exists ? .replacement : .new
  }
}
