import BorgFormat
import ObjectRepository
import SegmentRepository
import Session
import Storage

/// Repositories of Borg 1.x for clients of Borg 2, which open them with `v1_or_v2` as the source of
/// `borg transfer --from-borg1`: the dialect of `RPCServer` over the engine of `Borg1Server`, under the same rules for
/// what a client may do.
///
/// Stock clients only read here. What writes is there too, as in the original's table of methods; but objects are
/// stored as Borg 1.x stores them, where the original writes what only Borg 2 reads. One thread at a time. Source: borg
/// 2.0.0b18 `src/borg/remote.py` `RepositoryServer._legacy_rpc_methods`, `legacyrepository.py`.
struct Borg1Source {
  private let session: SegmentSession

  init(_ session: sending SegmentSession) { self.session = session }

  /// The way of a `get`, `put` or `delete`: all of them by one worker, so that none waits for another in the engine.
  ///
  /// A large value is in memory, and alone: the next one is received when this one is stored.
  static func lane(of call: RPCCall) -> Lane { call.values.isEmpty ? .keyed(0) : .exclusive }

  /// Opens a repository; one that is open is closed first, once the new one's path is admitted. Returns its id.
  func open(_ call: RPCCall, path: [UInt8]) throws(ServeError) -> [UInt8] {
    var request = SegmentSession.OpenRequest(path: path)
    request.expandsHome = false
    request.lockWait = try call.duration("lock_wait")
    if try !call.bool("lock", default: true) {
      request.locking = .none
    } else if !call.isNil("exclusive") {
      request.locking = try call.bool("exclusive") ? .exclusive : .shared
    }
    guard try !call.bool("create") else {
      // The original makes one of version 2, which no release of Borg 1.x or 2 opens as its own.
      throw .unsupported("Borg 2 reads repositories of Borg 1.x and does not create them.")
    }
    return try session.open(request)
  }

  func close() throws(ServeError) { try session.close() }

  /// Answers a request that is the repository's affair.
  func answer(_ method: RPCMethod, _ call: RPCCall) throws(ServeError) -> Answer {
    switch method {
    case .get: return try get(call)
    case .info: return try info(call)
    case .list: return try list(call)
    case .getManifest: return try manifest(call)
    case .count:
      let count = try session.repository.count()
      return call.reply { $0.int(Int64(count)) }
    case .check:
      let isSound = try check(call)
      return call.reply { $0.bool(isSound) }
    case .loadKey:
      let key = try session.repository.loadKey()
      return call.reply(reserving: key.count) { $0.binary(key) }
    case .saveKey:
      let repository = try session.repository
      try repository.saveKey(bytes(call, "keydata", limit: Limits.smallObject))
    case .put: try put(call)
    case .delete: try delete(call)
    case .commit: try commit(call)
    case .rollback: try session.repository.rollback()
    case .breakLock: try session.repository.breakLock()
    case .destroy: try session.destroy()
    case .negotiate, .open, .close, .injectException, .putManifest, .storeList, .storeLoad, .storeStore,
      .storeDelete, .storeMove:
      throw .methodUnknown(method.rawValue)
    }
    return call.reply { $0.nil() }
  }

  // MARK: Reading

  private func get(_ call: RPCCall) throws(ServeError) -> Answer {
    let repository = try session.repository
    do throws(ServeError) {
      guard let id = try call.id("id") else { throw .objectMissing(call.idText("id")) }
      // Entries of Borg 1.x have no metadata that could be read without the data: the answer is nil then.
      let readsData = try call.bool("read_data", default: true)
      return try object(id, in: repository, for: call, readsData: readsData)
    } catch .objectMissing(let id) {
      guard try !call.bool("raise_missing", default: true) else { throw .objectMissing(id) }
      return call.reply { $0.nil() }
    }
  }

  /// Straight from the engine into the answer: an object is copied nowhere in between.
  private func object(
    _ id: ObjectID, in repository: GrantedSegmentRepository, for call: RPCCall, readsData: Bool = true
  ) throws(ServeError) -> Answer {
    let object = try repository.locate(id, for: "reading objects")
    guard readsData else { return call.reply { $0.nil() } }
    var writer = call.beginReply(reserving: object.size + 8)
    writer.binaryHead(length: object.size)
    try repository.read(object, into: &writer.bytes)
    return .bytes(writer.bytes)
  }

  private func manifest(_ call: RPCCall) throws(ServeError) -> Answer {
    do throws(ServeError) {
      return try object(.manifest, in: session.repository, for: call)
    } catch .objectMissing {
      throw .manifestMissing
    }
  }

  private func info(_ call: RPCCall) throws(ServeError) -> Answer {
    let id = try session.repository.id
    return call.reply { writer in
      writer.map(count: 2)
      writer.string("id")
      writer.binary(id)
      writer.string("version")
      writer.int(1)
    }
  }

  private func list(_ call: RPCCall) throws(ServeError) -> Answer {
    let repository = try session.repository
    let limit = try call.int("limit")
    guard limit ?? 0 >= 0 else { throw .argumentValue("limit must not be negative") }
    let marker = call.isNil("marker") ? nil : try call.id("marker")
    guard call.isNil("marker") || marker != nil else {
      throw .argumentValue("marker must be 32 bytes long")
    }
    // A page may be shorter than it could be: clients go on until one is empty.
    let most = Int(min(limit ?? .max, Int64(Limits.listPage)))
    let ids = try repository.list(limit: limit == nil ? most + 1 : most, after: marker)
    guard ids.count <= most else {
      throw .argumentValue("more than \(Limits.listPage) objects: list needs a limit")
    }
    return call.reply(reserving: 34 * ids.count) { writer in
      writer.array(count: ids.count)
      for id in ids { writer.binary(id.bytes) }
    }
  }

  private func check(_ call: RPCCall) throws(ServeError) -> Bool {
    var request = SegmentRepository.CheckRequest()
    request.repairs = try call.bool("repair")
    if let duration = try call.duration("max_duration"), duration > .zero { request.maxDuration = duration }
    return try session.repository.check(request)
  }

  // MARK: Writing

  private func put(_ call: RPCCall) throws(ServeError) {
    let repository = try session.repository
    guard let id = try call.id("id") else { throw .argumentValue("id must be 32 bytes long") }
    switch try call.content("data", limit: Limits.putData) {
    case (.bytes(let block, let range), _): try repository.put(id, block, range)
    case (.upload, _):
      let data = try bytes(call, "data", limit: Limits.putData)
      try repository.put(id, data, data.indices)
    }
  }

  /// A binary argument as an array of its own.
  private func bytes(_ call: RPCCall, _ name: StaticString, limit: Int) throws(ServeError) -> [UInt8] {
    let (content, size) = try call.content(name, limit: limit)
    defer { content.abandon() }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(size)
    try content.read { (piece) throws(ServeError) in
      for index in piece.indices { bytes.append(piece[index]) }
    }
    return bytes
  }

  private func delete(_ call: RPCCall) throws(ServeError) {
    let repository = try session.repository
    guard let id = try call.id("id") else { throw .objectMissing(call.idText("id")) }
    try repository.delete(id)
  }

  private func commit(_ call: RPCCall) throws(ServeError) {
    var request = SegmentRepository.CommitRequest()
    request.compact = try call.bool("compact", default: true)
    request.threshold = try call.double("threshold") ?? request.threshold
    try session.repository.commit(request)
  }
}

extension LockIdentity {
  /// The process's identity in locks of Borg 1.x, which differ in form from those of Borg 2.
  init(of owner: LockOwner) {
    self.init(hostID: { owner.hostID }, processID: owner.processID, processIsAlive: owner.processIsAlive)
  }
}
