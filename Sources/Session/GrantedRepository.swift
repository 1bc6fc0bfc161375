public import BorgFormat
public import ObjectRepository
public import Storage

/// The open repository as far as the session's client may use it: every request passes here once, before the
/// engine, whose own reads and writes (locks, checkpoints, indexes) are not the client's.
///
/// In the mode `all` it hands everything through. In the others `Policy` decides, and `WriteRules` look at
/// what is to be stored. Blocking, as the engine is.
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
      throw denied("checking the repository")
    }
    if request.repairs, Policy.decide(mode, .delete, at: .namespace(.data)) != .granted {
      throw denied("repairing the repository")
    }
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
    case .answersMissing, .keepsWhole:
      try repository.refreshLock()
      return nil
    case .denied: throw denied("reading \(StoreName(id: id).text)")
    }
  }

  public func put(_ id: ObjectID, _ content: ObjectContent, size: Int) throws(ServeError) {
    if mode != .all, try !admits(StoreName(id: id), content, size) { return try repository.refreshLock() }
    try repository.put(id, content, size: size)
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
    if mode != .all, try !admits(name, content, size) { return try repository.refreshLock() }
    try repository.storeStore(name, content, size: size)
  }

  public func storeDelete(_ name: StoreName) throws(ServeError) {
    try require(.delete, name)
    if mode != .all, name.namespace == .locks {
      guard try repository.deleteStaleLock(name) else {
        throw denied("deleting \(name.text), a lock in use,")
      }
    } else {
      try repository.storeDelete(name)
    }
  }

  /// Outside of `all` a move only marks an object as deleted, or takes that back: under another name its
  /// content would have to be looked at again.
  public func storeMove(_ name: StoreName, to newName: StoreName) throws(ServeError) {
    guard mode != .all else { return try repository.storeMove(name, to: newName) }
    try require(.delete, name)
    let exists = try repository.exists(newName)
    let isAdmitted =
      name.living == newName.living && name.namespace != .locks
      && Policy.decide(mode, .store, at: .namespace(newName.namespace), exists: exists) == .granted
    guard isAdmitted else { throw denied("moving \(name.text) to \(newName.text)") }
    try repository.storeMove(name, to: newName)
  }

  // MARK: Locks

  /// Removes all locks; outside of `all` only stale ones, and throws if others are left.
  public func breakLock() throws(ServeError) {
    guard mode != .all else { return try repository.breakLock() }
    let left = try repository.breakStaleLocks()
    guard left == 0 else {
      throw denied("breaking \(left == 1 ? "a lock" : "\(left) locks") in use")
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
      throw denied("\(verb) \(name())")
    }
  }

  /// Whether to store the object, in a mode other than `all`: false if the one that is there stays, and
  /// counts as stored. Throws if the client may not, or if what it sent is not what belongs there.
  private func admits(_ name: StoreName, _ content: ObjectContent, _ size: Int) throws(ServeError) -> Bool {
    let exists = try repository.exists(name)
    let decision = Policy.decide(mode, .store, at: .namespace(name.namespace), exists: exists)
    switch decision {
    case .granted: break
    case .keepsWhole where try !repository.isWhole(name): break
    case .keepsWhole:
      content.abandon()
      return false
    case .answersMissing, .denied:
      throw denied("\(exists ? "overwriting" : "storing") \(name.text)")
    }
    guard try WriteRules(repository: repository).admits(name, content, size: size, exists: exists) else {
      throw denied("storing \(name.text)")
    }
    return true
  }

  private func denied(_ what: String) -> ServeError {
    .permissionDenied("\(what) is not permitted in the mode \(mode.rawValue)")
  }
}
