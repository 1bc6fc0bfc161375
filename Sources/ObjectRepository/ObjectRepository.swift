public import BorgFormat
public import Disk
public import Storage
import Synchronization

/// A Borg 2 repository of version 3 over any store: the engine behind the dialect of b16 to b21.
///
/// Blocking and thread-safe; calls that concern one object are the caller's to order, and everything but
/// `get`, `put` and `delete` is to run alone. Source: borg 2.0.0b18 `src/borg/repository.py`.
public final class ObjectRepository: Sendable {
  /// 32 bytes, chosen at creation.
  public let id: [UInt8]
  let store: any ObjectStore
  let reporter: any Reporter
  let cancellation: Cancellation
  private let owner: LockOwner
  private let lock: Mutex<RepositoryLock?>
  /// Whether cached chunk indexes may name objects that this session deletes.
  private let indexes = Monitor(CachedIndexes.present)

  /// Why an object of this session could not be stored, the first time that happened.
  private let unstored = Mutex<ServeError?>(nil)

  private enum CachedIndexes { case present, beingRemoved, gone }

  /// How a repository is to be opened.
  public struct Mode: Sendable {
    public var locks: Bool
    public var isExclusive: Bool
    /// How long to wait for the lock; zero is one attempt.
    public var lockWait: Duration

    public init(locks: Bool, isExclusive: Bool, lockWait: Duration) {
      (self.locks, self.isExclusive, self.lockWait) = (locks, isExclusive, lockWait)
    }
  }

  /// Opens the repository in `store` and locks it.
  ///
  /// The store is not closed when this throws.
  public init(
    store: any ObjectStore, mode: Mode, owner: LockOwner, reporter: any Reporter, cancellation: Cancellation
  ) throws(ServeError) {
    self.id = try Self.verify(store)
    self.store = store
    self.reporter = reporter
    self.cancellation = cancellation
    self.owner = owner
    guard mode.locks else {
      self.lock = Mutex(nil)
      return
    }
    self.lock = Mutex(
      try RepositoryLock.acquire(
        in: store, owner: owner, exclusive: mode.isExclusive, wait: mode.lockWait,
        cancellation: cancellation, reporter: reporter))
  }

  /// Writes what makes an empty store a repository. The readme comes last: without it no Borg takes the
  /// directory for a repository, so that a creation that was cut short is none.
  public static func create(in store: any ObjectStore) throws(ServeError) {
    let index = ChunkIndex.empty
    var bytes: [UInt8] = []
    index.write { piece, range in bytes += piece[range] }
    let indexName = try StoreName(parsing: "\(Namespace.cache.rawValue)/\(index.objectName)")
    try store.store(indexName, ObjectContent(bytes))
    try store.store(RepositoryLayout.idName, ObjectContent(Array(Hex.string(Host.randomBytes(32)).utf8)))
    let version = Array(String(RepositoryLayout.version).utf8)
    try store.store(RepositoryLayout.versionName, ObjectContent(version))
    try store.store(RepositoryLayout.readmeName, ObjectContent(Array(RepositoryLayout.readme.utf8)))
  }

  /// Makes sure that the store holds a repository of the right version; returns its id.
  private static func verify(_ store: any ObjectStore) throws(ServeError) -> [UInt8] {
    let label = store.label
    guard let readme = try store.load(RepositoryLayout.readmeName, limit: Limits.smallObject) else {
      throw .repositoryMissing(label)
    }
    guard readme == Array(RepositoryLayout.readme.utf8) else { throw .repositoryInvalid(label) }
    let version = try text(RepositoryLayout.versionName, in: store)
    let words = version.split(whereSeparator: \.isWhitespace)
    guard words.count == 1, let number = Int64(words[0]) else {
      throw .repositoryConfigInvalid(label, detail: "config/version is not a number")
    }
    guard number == RepositoryLayout.version else {
      throw .repositoryConfigInvalid(
        label, detail: "repository version \(number) is not supported by this borg version")
    }
    guard let id = Hex.decode(try text(RepositoryLayout.idName, in: store), letters: .anyCase), id.count == 32
    else {
      throw .repositoryConfigInvalid(label, detail: "config/id is not 64 hex digits")
    }
    return id
  }

  private static func text(_ name: StoreName, in store: any ObjectStore) throws(ServeError) -> String {
    guard let bytes = try store.load(name, limit: Limits.smallObject) else {
      throw .storeObjectMissing(name.text)
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// Makes everything durable, releases the lock and closes the store. The lock is released even if the
  /// store cannot keep its promise, and the first failure thrown.
  public func close() throws(ServeError) {
    var failure: ServeError?
    do { try store.barrier(durable: true) } catch { failure = error }
    var lockFailure: ServeError?
    do { try releaseLock() } catch { lockFailure = error }
    do { try store.close() } catch { failure = failure ?? error }
    if let failure = failure ?? lockFailure { throw failure }
  }

  private func releaseLock() throws(ServeError) {
    let held = lock.withLock { lock in
      defer { lock = nil }
      return lock
    }
    try held?.release()
  }

  /// Removes the repository. Returns the top-level names of foreign entries, which stay.
  public func destroy() throws(ServeError) -> [String] {
    do {
      try refreshLock()
      return try store.destroy()
    } catch {
      // Something is left, and nobody is to be kept from it.
      try? releaseLock()
      try? store.close()
      throw error
    }
  }

  /// Keeps the lock from going stale, and notices when somebody broke it.
  public func refreshLock() throws(ServeError) {
    try lock.withLock { $0 }?.refresh()
  }

  /// Removes every lock that anybody has on the repository.
  public func breakLock() throws(ServeError) {
    try RepositoryLock.breakAll(in: store)
  }

  /// Removes the locks whose holders are gone; returns how many others are left.
  public func breakStaleLocks() throws(ServeError) -> Int {
    try RepositoryLock.breakStale(in: store, owner: owner, reporter: reporter)
  }

  /// Removes a lock if its holder is gone; false if it is not. Throws `storeObjectMissing` if there is none.
  public func deleteStaleLock(_ name: StoreName) throws(ServeError) -> Bool {
    guard try exists(name) else { throw .storeObjectMissing(nested(name)) }
    _ = try breakStaleLocks()
    return try !exists(name)
  }

  /// Publishes objects that have waited for too long; called every second or so.
  public func tick() { store.tick() }

  /// Begins an object that a later `put` or `storeStore` gets.
  public func upload() throws(ServeError) -> any Upload { try store.upload() }

  // MARK: Repository objects

  /// What a `get` answers: bytes in memory, or the first `count` bytes of an object on disk.
  public enum Content: Sendable {
    case bytes([UInt8])
    case object(any StoredObject, count: Int)
  }

  /// A repository object, or only its header and metadata; nil if there is none.
  public func get(_ id: ObjectID, readsData: Bool = true) throws(ServeError) -> Content? {
    try refreshLock()
    guard let object = try store.open(StoreName(id: id)) else { return nil }
    if readsData { return try Self.content(of: object, count: object.size) }
    let header = try object.prefix(ObjectHeader.size)
    guard header.count == ObjectHeader.size, let metaSize = try? ObjectHeader(parsing: header.span).metaSize
    else { throw .integrity(Self.tooSmall(id, expected: ObjectHeader.size, got: header.count)) }
    let available = object.size - ObjectHeader.size
    guard available >= metaSize else {
      throw .integrity(Self.tooSmall(id, expected: metaSize, got: available))
    }
    return try Self.content(of: object, count: ObjectHeader.size + metaSize)
  }

  private static func tooSmall(_ id: ObjectID, expected: Int, got: Int) -> String {
    "Object too small [id \(id.hex)]: expected \(expected), got \(got) bytes"
  }

  private static func content(of object: any StoredObject, count: Int) throws(ServeError) -> Content {
    guard count <= Limits.inlineValue else {
      guard count <= Limits.messagePackLength else {
        throw .integrity("object of \(count) bytes, more than an answer can hold")
      }
      return .object(object, count: count)
    }
    let bytes = try object.prefix(count)
    // The answer's head promises this many bytes.
    guard bytes.count == count else {
      throw .integrity("object ends after \(bytes.count) of \(count) bytes")
    }
    return .bytes(bytes)
  }

  /// Stores a repository object over one of its name; with `keepsOther` it gives way to one that somebody publishes
  /// first.
  public func put(_ id: ObjectID, _ content: ObjectContent, size: Int, keepsOther: Bool = false)
    throws(ServeError)
  {
    try refreshLock()
    guard size <= Limits.putData else {
      throw .integrity("More than allowed put data [\(size) > \(Limits.putData)]")
    }
    try store.store(StoreName(id: id), content, keepsOther: keepsOther)
  }

  /// Takes an object that is there for one that was put now; false if it is gone meanwhile.
  public func adopt(_ id: ObjectID) throws(ServeError) -> Bool {
    try refreshLock()
    return try store.adopt(StoreName(id: id))
  }

  /// Notes that a `put` was answered with an error.
  ///
  /// From then on this session stores no archive entry and no chunk index, which get the same error: stock
  /// clients send puts ahead of their answers, and when one fails, 2.0.0b18 still writes an index that names
  /// the object. The next backup would believe in it, and leave the object out.
  public func noteUnstored(_ error: ServeError) {
    unstored.withLock { $0 = $0 ?? error }
  }

  /// Deletes a repository object; false if there was none.
  ///
  /// Before the first one, the cached chunk indexes go, durably: if this session ends early, the next
  /// client rebuilds its index from what is there, instead of believing in objects that are gone.
  public func delete(_ id: ObjectID) throws(ServeError) -> Bool {
    try refreshLock()
    try forgetIndexes()
    return try store.delete(StoreName(id: id))
  }

  /// Removes the cached chunk indexes, durably; of two workers one does it, and the other waits for it.
  func forgetIndexes() throws(ServeError) {
    let isOurs: Bool = indexes.wait { state in
      switch state {
      case .gone: return false
      case .beingRemoved: return nil
      case .present:
        state = .beingRemoved
        return true
      }
    }
    guard isOurs else { return }
    let result = Result { () throws(ServeError) in
      for name in try indexNames() { _ = try store.delete(name) }
      try store.barrier(durable: true)
    }
    indexes.update { state in
      if case .success = result { state = .gone } else { state = .present }
    }
    try result.get()
  }

  func indexNames() throws(ServeError) -> [StoreName] {
    let cache = Namespace.cache.rawValue
    var names: [StoreName] = []
    // One that was marked as deleted can come back.
    for deleted in [false, true] {
      names += (try store.list(cache, deleted: deleted) ?? [])
        .filter { $0.name.hasPrefix(RepositoryLayout.chunkIndexPrefix) }
        .compactMap { try? StoreName(parsing: "\(cache)/\($0.name)", isDeleted: deleted) }
    }
    return names
  }

  /// At most `limit` objects with ids above `marker`, which need not exist, in ascending order.
  public func list(after marker: ObjectID?, limit: Int) throws(ServeError) -> [ListedID] {
    try refreshLock()
    return try store.objects(after: marker, limit: limit, foreign: reportForeign) ?? []
  }

  func reportForeign(_ name: String) {
    reporter.log(.warning, .serve, "Ignoring \(name.shortened), which is no repository object.")
  }

  // MARK: Other objects

  public func manifest() throws(ServeError) -> Content {
    try refreshLock()
    guard let object = try store.open(RepositoryLayout.manifestName) else { throw .manifestMissing }
    return try Self.content(of: object, count: object.size)
  }

  public func loadKey() throws(ServeError) -> Content {
    guard let object = try store.open(RepositoryLayout.keyName) else {
      throw .storeObjectMissing(RepositoryLayout.keyName.text)
    }
    return try Self.content(of: object, count: object.size)
  }

  public func storeList(_ directory: String, deleted: Bool) throws(ServeError) -> [ListedObject] {
    try refreshLock()
    try StoreName.validate(directory)
    return try store.list(directory, deleted: deleted) ?? []
  }

  public func storeLoad(_ name: StoreName) throws(ServeError) -> Content {
    try refreshLock()
    guard let object = try store.open(name) else { throw .storeObjectMissing(nested(name)) }
    return try Self.content(of: object, count: object.size)
  }

  public func storeStore(_ name: StoreName, _ content: ObjectContent, size: Int) throws(ServeError) {
    try refreshLock()
    let limit = Self.sizeLimit(of: name)
    guard size <= limit else {
      throw .integrity("More than allowed in \(name.text) [\(size) > \(limit)]")
    }
    let isIndex = name.text.hasPrefix("\(Namespace.cache.rawValue)/\(RepositoryLayout.chunkIndexPrefix)")
    if name.namespace == .archives || isIndex, let error = unstored.withLock({ $0 }) { throw error }
    try store.store(name, content)
    if name.namespace == .cache { noteNewIndex() }
  }

  /// Notes that a cached index may name objects again that a later `delete` removes.
  func noteNewIndex() { indexes.update { $0 = .present } }

  /// The largest value that an object of this name may have.
  public static func sizeLimit(of name: StoreName) -> Int {
    switch name.namespace {
    case .data: Limits.putData
    case .cache: Limits.chunkIndex
    // repo-space writes fillers of 64 MiB there.
    case .config where name.text.hasPrefix("config/\(RepositoryLayout.spaceReservePrefix)"): Limits.chunkIndex
    case .config, .archives, .keys, .locks: Limits.smallObject
    }
  }

  public func storeDelete(_ name: StoreName) throws(ServeError) {
    try refreshLock()
    if name.namespace == .data { try forgetIndexes() }
    guard try store.delete(name) else { throw .storeObjectMissing(nested(name)) }
  }

  public func storeMove(_ name: StoreName, to newName: StoreName) throws(ServeError) {
    try refreshLock()
    if name.namespace == .data { try forgetIndexes() }
    guard try store.move(name, to: newName) else { throw .storeObjectMissing(nested(name)) }
    if newName.namespace == .cache { noteNewIndex() }
  }

  /// The name with which the original reports a missing object.
  public func nested(_ name: StoreName) -> String { name.nested(dataLevels: store.dataLevels) }

  public func availableSpace() -> UInt64? { store.availableSpace() }

  // MARK: What a policy asks

  /// Whether there is such an object, published or not.
  public func exists(_ name: StoreName) throws(ServeError) -> Bool { try store.info(name) != nil }

  /// Whether an object of `data/` is there with a header that fits and checksums that hold; reads all of it.
  public func isWhole(_ name: StoreName) throws(ServeError) -> Bool {
    guard let object = try store.open(name) else { return false }
    var buffer = [UInt8](repeating: 0, count: min(max(object.size, 1), Limits.readBlock))
    return try ObjectVerifier.findings(in: object, &buffer).isEmpty
  }

  /// Whether this session has the repository to itself, shares it, or takes part without a lock.
  public var isLocked: (shared: Bool, exclusive: Bool) {
    lock.withLock { lock in (lock != nil, lock?.isExclusive ?? false) }
  }

  /// Whether the session is ending: long work is to stop.
  public var isCancelled: Bool { cancellation.isCancelled }

  /// Removes the cached chunk indexes, durably: the next client makes a new one from what is there.
  public func removeIndexes() throws(ServeError) {
    noteNewIndex()
    try forgetIndexes()
  }
}
