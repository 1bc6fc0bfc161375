import BorgFormat
import ObjectRepository
import Session
import Storage
import Synchronization

/// Answers the requests of the dialect of b16 to b21.
///
/// Source: borg 2.0.0b18 `src/borg/remote.py`, `RepositoryServer`.
final class RPCServer: RequestHandler {
  let session: Session
  private let reporter: any Reporter
  private let sysinfo: String
  private let state = Mutex(State())

  /// Repositories of Borg 1.x. Held over I/O: it is this that lets one thread at a time into their engine, and nobody
  /// waits for it, since `lane` sends such requests one way; but for those that arrive together with their `open`.
  private let borg1: Mutex<Borg1Source>

  private struct State {
    var client: BorgVersion?
    /// What the last `open`, even a refused one, was for: it decides which methods there are, and who answers them.
    var kind: RepositoryKind?
    /// The path of the last repository that was opened, for messages.
    var path = ""
  }

  init(session: Session, borg1: sending Borg1Source, reporter: any Reporter, sysinfo: String) {
    self.session = session
    self.borg1 = Mutex(borg1)
    self.reporter = reporter
    self.sysinfo = sysinfo
  }

  private var kind: RepositoryKind? { state.withLock { $0.kind } }

  func lane(of call: RPCCall) -> Lane {
    switch RPCMethod(rawValue: call.request.method) {
    case .get, .put, .delete:
      if kind == .borg1 { return Borg1Source.lane(of: call) }
      guard let id = try? call.id("id") else { return .exclusive }
      return .keyed(id.word0)
    default:
      return .exclusive
    }
  }

  func weight(of call: RPCCall) -> Int { call.request.size }

  func answer(_ call: RPCCall) -> Answer {
    do {
      let answer = try perform(call)
      call.abandonValues(all: false)
      return answer
    } catch {
      call.abandonValues(all: true)
      return .bytes(errorReply(error, to: call.request.id))
    }
  }

  private func errorReply(_ error: ServeError, to id: MessageID) -> [UInt8] {
    let (client, path, kind) = state.withLock { ($0.client, $0.path, $0.kind) }
    let available = try? session.repository.availableSpace()
    reporter.log(.debug, .serve, "Answering with an error: \(error)")
    let wire = WireError(error, client: client, repository: path, available: available ?? nil)
    return (kind == .borg1 ? wire.rebuildableForBorg1 : wire).reply(to: id, sysinfo: sysinfo)
  }

  /// Closes what is open: everything durable, the lock released.
  func close() throws(ServeError) {
    let ended = Result { () throws(ServeError) in try session.close() }
    try borg1.withLock { (source) throws(ServeError) in try source.close() }
    try ended.get()
  }

  /// Begins a value that is too large to travel in memory.
  ///
  /// For the log of Borg 1.x it does so all the same: its entries begin with a checksum. See `Borg1Source.lane`.
  func upload() throws(ServeError) -> any Upload {
    kind == .borg1 ? MemoryStore().upload() : try session.upload()
  }

  /// The largest value of that method, if it is known already.
  func valueLimit(of method: String?) -> Int {
    let limit = method.map { RPCMethod(rawValue: $0)?.valueLimit ?? 0 } ?? Limits.chunkIndex
    return kind == .borg1 ? min(limit, Limits.putData) : limit
  }

  // MARK: Methods

  private func perform(_ call: RPCCall) throws(ServeError) -> Answer {
    let kind = kind
    guard let method = RPCMethod(rawValue: call.request.method), method.isKnown(after: kind) else {
      throw .methodUnknown(call.request.method.shortened)
    }
    if kind == .borg1, !method.isOfConnection {
      return try borg1.withLock { (source) throws(ServeError) in try source.answer(method, call) }
    }
    switch method {
    case .negotiate: return try negotiate(call)
    case .open: return try open(call)
    case .close: try close()
    case .destroy: try session.destroy()
    case .info: return try info(call)
    case .check: return try check(call)
    case .list: return try list(call)
    case .get: return try get(call)
    case .put: try put(call)
    case .delete: try delete(call)
    case .saveKey: try store(call, "keydata", as: RepositoryLayout.keyName)
    case .loadKey: return call.reply(try session.repository.loadKey())
    case .getManifest: return call.reply(try session.repository.manifest())
    case .putManifest: try store(call, "data", as: RepositoryLayout.manifestName)
    case .breakLock: try session.repository.breakLock()
    case .storeList: return try storeList(call)
    case .storeLoad: return call.reply(try session.repository.storeLoad(call.name("name")))
    case .storeStore: try store(call, "value", as: call.name("name"))
    case .storeDelete:
      try session.repository.storeDelete(call.name("name", deleted: call.bool("deleted")))
    case .storeMove: try storeMove(call)
    case .injectException: try injectException(call)
    case .count: throw .unsupported("__len__ is not supported for this repository.")
    case .commit, .rollback: throw .methodUnknown(call.request.method)
    }
    return call.reply { $0.nil() }
  }

  private func negotiate(_ call: RPCCall) throws(ServeError) -> Answer {
    let client: BorgVersion
    switch call.request.value("client_data") {
    case nil: throw .argumentType("negotiate() missing 1 required argument: 'client_data'")
    case .encoded(let range):
      guard let version = ClientData.version(in: call.request.block, range) else {
        throw .namespaceUnknown("client_version")
      }
      client = version
    // Anything but a map: newer than all that is known, says the original.
    default: client = .reported
    }
    state.withLock { $0.client = client }
    return call.reply { writer in
      writer.map(count: 1)
      writer.string("server_version")
      let parts = BorgVersion.reported.parts
      writer.array(count: parts.count)
      for part in parts { writer.int(part) }
    }
  }

  private func open(_ call: RPCCall) throws(ServeError) -> Answer {
    let path = try call.path("path")
    let kind: RepositoryKind = try call.bool("v1_or_v2") ? .borg1 : .borg2
    state.withLock { $0.kind = kind }
    let label = String(decoding: path, as: UTF8.self).shortened
    if kind == .borg1 {
      try session.close()
      let id = try borg1.withLock { (source) throws(ServeError) in try source.open(call, path: path) }
      state.withLock { $0.path = label }
      return call.reply { $0.binary(id) }
    }
    try borg1.withLock { (source) throws(ServeError) in try source.close() }
    let locks = try call.bool("lock", default: true)
    guard let wait = try call.duration("lock_wait") else {
      throw .argumentType("open() argument 'lock_wait' must be a number")
    }
    let mode = ObjectRepository.Mode(
      locks: locks, isExclusive: try call.bool("exclusive"), lockWait: wait)
    let id = try session.open(path: path, creates: call.bool("create"), mode)
    state.withLock { $0.path = label }
    return call.reply { $0.binary(id) }
  }

  private func info(_ call: RPCCall) throws(ServeError) -> Answer {
    let repository = try session.repository
    try repository.refreshLock()
    return call.reply { writer in
      writer.map(count: 2)
      writer.string("id")
      writer.binary(repository.id)
      writer.string("version")
      writer.int(RepositoryLayout.version)
    }
  }

  private func check(_ call: RPCCall) throws(ServeError) -> Answer {
    let request = ObjectRepository.CheckRequest(
      repairs: try call.bool("repair"), maxDuration: try call.duration("max_duration") ?? .zero,
      checkpoint: RepositoryLayout.checkpointName(for: state.withLock { $0.client }))
    let isSound = try session.repository.check(request)
    return call.reply { $0.bool(isSound) }
  }

  private func list(_ call: RPCCall) throws(ServeError) -> Answer {
    let limit = try call.int("limit") ?? 0
    guard limit <= Limits.listPage else {
      throw .argumentValue("limit must be at most \(Limits.listPage)")
    }
    let marker = call.isNil("marker") ? nil : try call.id("marker")
    guard call.isNil("marker") || marker != nil else { throw .argumentValue("marker must be 32 bytes long") }
    let page = limit > 0 ? Int(limit) : Limits.listPage + 1
    let objects = try session.repository.list(after: marker, limit: page)
    guard objects.count <= Limits.listPage else {
      throw .argumentValue("more than \(Limits.listPage) objects: list needs a limit")
    }
    return call.reply(reserving: 48 * objects.count) { writer in
      writer.array(count: objects.count)
      for object in objects {
        writer.array(count: 2)
        writer.binary(object.id.bytes)
        writer.int(Int64(object.size))
      }
    }
  }

  private func get(_ call: RPCCall) throws(ServeError) -> Answer {
    let repository = try session.repository
    let readsData = try call.bool("read_data", default: true)
    if let id = try call.id("id"), let content = try repository.get(id, readsData: readsData) {
      return call.reply(content)
    }
    guard try !call.bool("raise_missing", default: true) else { throw .objectMissing(call.idText("id")) }
    return call.reply { $0.nil() }
  }

  private func put(_ call: RPCCall) throws(ServeError) {
    let repository = try session.repository
    do throws(ServeError) {
      guard let id = try call.id("id") else { throw .argumentValue("id must be 32 bytes long") }
      let (content, size) = try call.content("data", limit: Limits.putData)
      try repository.put(id, content, size: size)
    } catch {
      repository.noteUnstored(error)
      throw error
    }
  }

  private func delete(_ call: RPCCall) throws(ServeError) {
    let repository = try session.repository
    guard let id = try call.id("id"), try repository.delete(id) else {
      throw .objectMissing(call.idText("id"))
    }
  }

  private func store(_ call: RPCCall, _ argument: StaticString, as name: StoreName) throws(ServeError) {
    let repository = try session.repository
    let limit = ObjectRepository.sizeLimit(of: name)
    let (content, size) = try call.content(argument, limit: limit)
    try repository.storeStore(name, content, size: size)
  }

  private func storeList(_ call: RPCCall) throws(ServeError) -> Answer {
    let directory = try call.text("name")
    let objects = try session.repository.storeList(
      directory == "." ? "" : directory, deleted: call.bool("deleted"))
    return call.reply(reserving: 80 * objects.count) { writer in
      writer.array(count: objects.count)
      for object in objects {
        writer.array(count: 4)
        writer.string(object.name)
        writer.bool(true)
        writer.int(Int64(object.size))
        writer.bool(false)
      }
    }
  }

  private func storeMove(_ call: RPCCall) throws(ServeError) {
    let repository = try session.repository
    if try call.bool("delete") {
      let name = try call.name("name")
      try repository.storeMove(name, to: name.softDeleted())
    } else if try call.bool("undelete") {
      let name = try call.name("name", deleted: true)
      try repository.storeMove(name, to: name.living)
    } else {
      guard let newName = try call.optionalText("new_name"), !newName.isEmpty else {
        throw .argumentValue("Generic move requires new_name to be given.")
      }
      let deleted = try call.bool("deleted")
      let target = try StoreName(parsing: newName, isDeleted: deleted)
      try repository.storeMove(call.name("name", deleted: deleted), to: target)
    }
  }

  private func injectException(_ call: RPCCall) throws(ServeError) {
    let kind = try call.text("kind")
    let known: Set<String> = [
      "DoesNotExist", "AlreadyExists", "CheckNeeded", "IntegrityError", "PathNotAllowed", "ObjectNotFound",
      "InvalidRPCMethod", "divide",
    ]
    let isNewClient = state.withLock { $0.client.map { $0 >= .storeObjectNotFound } ?? false }
    guard known.contains(kind) || kind == "StoreObjectNotFound" && isNewClient else { return }
    throw .injected(kind)
  }
}

/// The argument of `negotiate`: `{"client_version": [2, 0, 0, -3, 18]}`.
enum ClientData {
  /// The version in an encoded value; nil for a map without one, the reported one for what is no map.
  static func version(in block: [UInt8], _ range: Range<Int>) -> BorgVersion? {
    let bytes = block.span.extracting(range)
    var reader = MessagePackReader()
    guard case .map(let count)? = try? reader.head(in: bytes) else { return .reported }
    for _ in 0..<count {
      guard let key = text(&reader, bytes) else { return nil }
      guard key == "client_version" else {
        guard (try? reader.skip(in: bytes)) != nil else { return nil }
        continue
      }
      guard case .array(let parts)? = try? reader.head(in: bytes), parts <= 16 else { return nil }
      var numbers: [Int64] = []
      for _ in 0..<parts {
        guard case .int(let number)? = try? reader.head(in: bytes) else { return nil }
        numbers.append(number)
      }
      return BorgVersion(numbers)
    }
    return nil
  }

  private static func text(_ reader: inout MessagePackReader, _ bytes: Span<UInt8>) -> String? {
    guard case .string(let length)? = try? reader.head(in: bytes),
      let range = try? reader.payload(length, in: bytes)
    else { return nil }
    var name: [UInt8] = []
    for position in range { name.append(bytes[position]) }
    return String(decoding: name, as: UTF8.self)
  }
}
