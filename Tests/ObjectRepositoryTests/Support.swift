import BorgFormat
import Disk
import DiskSimulation
import ObjectRepository
import Storage
import Synchronization

/// Notes what an operation reports. A class because the operation and the test share it.
final class RecordingReporter: Reporter {
  struct Line: Equatable, CustomStringConvertible {
    let level: LogLevel
    let logger: Logger
    let message: String
    var description: String { "\(level) \(logger) \(message)" }
  }

  private let state = Mutex<(lines: [Line], progress: [Progress])>(([], []))

  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String) {
    let line = Line(level: level, logger: logger, message: message())
    state.withLock { $0.lines.append(line) }
  }

  func progress(_ progress: Progress) { state.withLock { $0.progress.append(progress) } }

  var lines: [Line] { state.withLock { $0.lines } }
  var progress: [Progress] { state.withLock { $0.progress } }

  /// Levels and messages of what Borg's own repository code says.
  var repositoryLines: [String] {
    lines.filter { $0.logger == .repository }.map { "\($0.level) \($0.message)" }
  }
}

/// A store before which a test can do things. What is not intercepted goes to `base`.
struct InterceptedStore: ObjectStore {
  let base: any ObjectStore
  var onList: @Sendable (String) -> Void = { _ in }
  var onOpen: @Sendable (StoreName) -> Void = { _ in }
  var onStore: @Sendable (StoreName) -> Void = { _ in }
  var onDelete: @Sendable (StoreName) -> Void = { _ in }

  var label: String { base.label }
  var dataLevels: Int { base.dataLevels }
  func info(_ name: StoreName) throws(ServeError) -> Int? { try base.info(name) }

  func open(_ name: StoreName) throws(ServeError) -> (any StoredObject)? {
    onOpen(name)
    return try base.open(name)
  }

  func upload() throws(ServeError) -> any Upload { try base.upload() }

  func store(_ name: StoreName, _ content: ObjectContent, keepsOther: Bool) throws(ServeError) {
    onStore(name)
    try base.store(name, content, keepsOther: keepsOther)
  }

  func adopt(_ name: StoreName) throws(ServeError) -> Bool { try base.adopt(name) }

  func delete(_ name: StoreName) throws(ServeError) -> Bool {
    onDelete(name)
    return try base.delete(name)
  }

  func move(_ name: StoreName, to newName: StoreName) throws(ServeError) -> Bool {
    try base.move(name, to: newName)
  }

  /// Runs `onList` between the listing and its use.
  func list(_ directory: String, deleted: Bool) throws(ServeError) -> [ListedObject]? {
    defer { onList(directory) }
    return try base.list(directory, deleted: deleted)
  }

  func objects(after marker: ObjectID?, limit: Int, foreign: (String) -> Void)
    throws(ServeError) -> [ListedID]?
  {
    try base.objects(after: marker, limit: limit, foreign: foreign)
  }

  func barrier(durable: Bool) throws(ServeError) { try base.barrier(durable: durable) }
  func tick() { base.tick() }
  func availableSpace() -> UInt64? { base.availableSpace() }
  func close() throws(ServeError) { try base.close() }
  func destroy() throws(ServeError) -> [String] { try base.destroy() }
}

/// Opens, or creates, a repository the way a session does.
struct Opener {
  var store: any ObjectStore
  var creates = false
  var locks = false
  var isExclusive = false
  var lockWait = Duration.zero
  var owner = LockOwner(hostID: "here@1")
  var reporter = RecordingReporter()
  var cancellation = Cancellation()

  init(_ store: any ObjectStore) { self.store = store }

  init(creatingIn store: any ObjectStore) {
    self.init(store)
    creates = true
  }

  /// For a session that wants the lock.
  init(locking store: any ObjectStore, exclusive: Bool, wait: Duration = .zero) {
    self.init(store)
    (locks, isExclusive, lockWait) = (true, exclusive, wait)
  }

  func open() throws(ServeError) -> ObjectRepository {
    if creates { try ObjectRepository.create(in: store) }
    let mode = ObjectRepository.Mode(locks: locks, isExclusive: isExclusive, lockWait: lockWait)
    return try ObjectRepository(
      store: store, mode: mode, owner: owner, reporter: reporter, cancellation: cancellation)
  }
}

func id(_ number: Int) -> ObjectID {
  ObjectID(UInt64(number) &* 0x9E37_79B9_7F4A_7C15, 0, 0, UInt64(number))
}

func named(_ text: String) throws -> StoreName { try StoreName(parsing: text) }

func text(_ string: String) -> ObjectContent { ObjectContent(Array(string.utf8)) }

func posixStore(on disk: SimulatedDisk) -> PosixStore {
  var options = PosixStore.Options()
  options.publishesInBackground = false
  return PosixStore(root: disk.root(), label: "test", options: options)
}

/// A sound repository object.
func object(meta: String = "meta", data: String) -> [UInt8] {
  let (meta, data) = (Array(meta.utf8), Array(data.utf8))
  var bytes: [UInt8] = []
  for count in [meta.count, data.count] {
    for shift in stride(from: 0, to: 32, by: 8) { bytes.append(UInt8(count >> shift & 0xFF)) }
  }
  for part in [meta, data] {
    let hash = XXH64.hash(part)
    for shift in stride(from: UInt64(56), through: 0, by: -8) { bytes.append(UInt8(hash >> shift & 0xFF)) }
  }
  return bytes + meta + data
}

extension ObjectStore {
  func text(_ name: StoreName) throws(ServeError) -> String? {
    try load(name, limit: Limits.smallObject).map { String(decoding: $0, as: UTF8.self) }
  }

  /// The base names in a namespace.
  func names(_ namespace: Namespace) throws(ServeError) -> [String] {
    try list(namespace.rawValue, deleted: false)?.map(\.name) ?? []
  }

  /// The cached chunk indexes, by name, with the ids in them.
  func indexes() throws -> [String: [ObjectID]] {
    var found: [String: [ObjectID]] = [:]
    for name in try names(.cache) where name.hasPrefix(RepositoryLayout.chunkIndexPrefix) {
      guard let bytes = try load(named("cache/\(name)"), limit: Limits.chunkIndex) else { continue }
      var reader = ChunkIndexReader()
      var ids: [ObjectID] = []
      try reader.update(bytes.span) { ids.append($0) }
      try reader.finish()
      guard reader.objectName == name else { throw ServeError.integrity("\(name) is damaged") }
      found[name] = ids
    }
    return found
  }
}

/// A chunk index's name and bytes.
func index(of ids: [ObjectID]) throws -> (name: StoreName, bytes: [UInt8]) {
  var builder = ChunkIndexBuilder()
  for id in ids.sorted() { builder.insert(id) }
  let index = builder.finish()
  var bytes: [UInt8] = []
  index.write { piece in for position in piece.indices { bytes.append(piece[position]) } }
  return (try named("cache/\(index.objectName)"), bytes)
}
