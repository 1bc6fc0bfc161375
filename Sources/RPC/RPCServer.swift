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

  private struct State {
    var client: BorgVersion?
    /// From the first `open` on, even a refused one, all methods are known.
    var hasOpened = false
    /// The path of the last repository that was opened, for messages.
    var path = ""
  }

  init(session: Session, reporter: any Reporter, sysinfo: String) {
    self.session = session
    self.reporter = reporter
    self.sysinfo = sysinfo
  }

  func lane(of call: RPCCall) -> Lane {
    switch RPCMethod(rawValue: call.request.method) {
    case .get, .put, .delete:
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
    let (client, path) = state.withLock { ($0.client, $0.path) }
    let available = try? session.repository.availableSpace()
    reporter.log(.debug, .serve, "Answering with an error: \(error)")
    return WireError(error, client: client, repository: path, available: available ?? nil)
      .reply(to: id, sysinfo: sysinfo)
  }

  // MARK: Methods

  private func perform(_ call: RPCCall) throws(ServeError) -> Answer {
    guard let method = RPCMethod(rawValue: call.request.method),
      method.isAllowedUnopened || state.withLock({ $0.hasOpened })
    else { throw .methodUnknown(call.request.method.shortened) }
    switch method {
    case .negotiate: return try negotiate(call)
    case .open: return try open(call)
    case .close: try session.close()
    case .destroy: try session.destroy()
    case .info: return try info(call)
    case .check: return try check(call)
    case .list: return try list(call)
    case .get: return try get(call)
    case .put: try put(call)
    case .delete: try delete(call)
    case .saveKey: try store(call, "keydata", as: RepositoryLayout.keyName)
    case .loadKey: return reply(call, try session.repository.loadKey())
    case .getManifest: return reply(call, try session.repository.manifest())
    case .putManifest: try store(call, "data", as: RepositoryLayout.manifestName)
    case .breakLock: try session.repository.breakLock()
    case .storeList: return try storeList(call)
    case .storeLoad: return reply(call, try session.repository.storeLoad(call.name("name")))
    case .storeStore: try store(call, "value", as: call.name("name"))
    case .storeDelete:
      try session.repository.storeDelete(call.name("name", deleted: call.bool("deleted")))
    case .storeMove: try storeMove(call)
    case .injectException: try injectException(call)
    case .count: throw .unsupported("__len__ is not supported for this repository.")
    }
    return reply(call) { $0.nil() }
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
    return reply(call) { writer in
      writer.map(count: 1)
      writer.string("server_version")
      let parts = BorgVersion.reported.parts
      writer.array(count: parts.count)
      for part in parts { writer.int(part) }
    }
  }

  private func open(_ call: RPCCall) throws(ServeError) -> Answer {
    state.withLock { $0.hasOpened = true }
    let path = try call.path("path")
    let label = String(decoding: path, as: UTF8.self).shortened
    guard try !call.bool("v1_or_v2") else {
      throw .unsupported("This server does not serve Borg 1.x repositories yet (\(label)).")
    }
    let locks = try call.bool("lock", default: true)
    guard let wait = try call.duration("lock_wait") else {
      throw .argumentType("open() argument 'lock_wait' must be a number")
    }
    let mode = ObjectRepository.Mode(
      locks: locks, isExclusive: try call.bool("exclusive"), lockWait: wait)
    let id = try session.open(path: path, creates: call.bool("create"), mode)
    state.withLock { $0.path = label }
    return reply(call) { $0.binary(id) }
  }

  private func info(_ call: RPCCall) throws(ServeError) -> Answer {
    let repository = try session.repository
    try repository.refreshLock()
    return reply(call) { writer in
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
    return reply(call) { $0.bool(isSound) }
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
    return reply(call, reserving: 48 * objects.count) { writer in
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
      return reply(call, content)
    }
    guard try !call.bool("raise_missing", default: true) else { throw .objectMissing(call.idText("id")) }
    return reply(call) { $0.nil() }
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
    return reply(call, reserving: 80 * objects.count) { writer in
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

  // MARK: Replies

  private func reply(
    _ call: RPCCall, reserving capacity: Int = 64, _ result: (inout MessagePackWriter) -> Void
  ) -> Answer {
    var writer = MessagePackWriter(reserving: capacity + 16)
    head(of: call, &writer)
    result(&writer)
    return .bytes(writer.bytes)
  }

  private func reply(_ call: RPCCall, _ content: ObjectRepository.Content) -> Answer {
    switch content {
    case .bytes(let bytes):
      return reply(call, reserving: bytes.count) { $0.binary(bytes) }
    case .object(let object, let count):
      var writer = MessagePackWriter()
      head(of: call, &writer)
      writer.binaryHead(length: count)
      return .stream(head: writer.bytes, object: object, count: count)
    }
  }

  private func head(of call: RPCCall, _ writer: inout MessagePackWriter) {
    writer.map(count: 2)
    writer.string("i")
    writer.raw(call.request.id.encoded)
    writer.string("r")
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
