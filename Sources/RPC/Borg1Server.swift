import BorgFormat
import SegmentRepository
import Session

/// Answers the requests of Borg 1.x, one after another, into one output.
///
/// Source: borg 1.4.5 `src/borg/remote.py`, `RepositoryServer`.
struct Borg1Server {
  private let session: SegmentSession
  private let reporter: Borg1Reporter
  private let sysinfo: String
  var output = Borg1Output()
  /// The path of the last repository that was opened, for messages.
  private var path = ""

  init(session: SegmentSession, reporter: Borg1Reporter, sysinfo: String) {
    (self.session, self.reporter, self.sysinfo) = (session, reporter, sysinfo)
  }

  /// Executes a request and appends its answer, be it an error.
  mutating func answer(_ request: Borg1Request, in block: [UInt8]) {
    let start = output.bytes.count
    do {
      try perform(Borg1Call(request: request, block: block))
    } catch {
      output.truncate(to: start)
      let error = Borg1Error(error, repository: path)
      switch request.form {
      // Clients of this form are told nothing more than a class and a line.
      case .tuple where !error.isSilent: reporter.log(.error, .root, error.message)
      case .tuple, .map: reporter.log(.debug, .serve, "Answering with an error: \(error.message)")
      }
      error.append(to: &output, request.form, block[request.id], sysinfo: sysinfo)
    }
  }

  private mutating func perform(_ call: Borg1Call) throws(ServeError) {
    if let problem = call.request.problem { throw .argumentType("\(problem)") }
    guard let method = call.request.method else { throw .methodUnknown(call.methodText) }
    switch method {
    case .put:
      let repository = try session.repository
      let id = try call.id(.id)
      try repository.put(id, call.block, try call.data(.data, limit: Limits.putData))
    case .get: return try get(call)
    case .delete: try session.repository.delete(try call.id(.id))
    case .negotiate: return try negotiate(call)
    case .open: return try open(call)
    case .check:
      let isSound = try check(call)
      return reply(call) { $0.bool(isSound) }
    case .commit: try commit(call)
    case .rollback:
      // A client that was interrupted does so too once it has destroyed what it had made.
      if !session.wasDestroyed { try session.repository.rollback() }
    case .destroy: try session.destroy()
    case .count:
      let count = try session.repository.count()
      return reply(call) { $0.int(Int64(count)) }
    case .list, .scan: return try list(call, inLogOrder: method == .scan)
    case .saveKey:
      let repository = try session.repository
      try repository.saveKey(Array(call.block[try call.data(.keyData, limit: Limits.smallObject)]))
    case .loadKey:
      let key = try session.repository.loadKey()
      return reply(call) { $0.raw(key) }
    case .breakLock: try session.repository.breakLock()
    case .freeNonce:
      let nonce = try session.repository.freeNonce()
      return reply(call) { output in
        if let nonce { output.uint(nonce) } else { output.nil() }
      }
    case .reserveNonces:
      let repository = try session.repository
      guard let next = try call.nonce(.nextUnreserved) else { throw call.missing(.nextUnreserved) }
      try repository.reserveNonces(upTo: next, from: try call.nonce(.startNonce))
    case .injectException: try injectException(call)
    }
    reply(call) { $0.nil() }
  }

  private mutating func reply(_ call: Borg1Call, _ result: (inout Borg1Output) -> Void) {
    output.beginAnswer(call.request.form, call.block[call.request.id])
    result(&output)
  }

  private mutating func negotiate(_ call: Borg1Call) throws(ServeError) {
    switch call.request.value(.clientData) {
    case nil: throw call.missing(.clientData)
    // Clients from 0.29 to 1.0 name the version of the protocol, and keep to tuples.
    case .int(2): return reply(call) { $0.int(2) }
    case .encoded(let range):
      guard ClientData.version(in: call.block, range) != nil else {
        throw .namespaceUnknown("client_version")
      }
      reporter.useJSON()
    default: break
    }
    reply(call) { output in
      output.map(count: 1)
      output.string("server_version")
      let parts = BorgVersion.reportedToBorg1.parts
      output.array(count: parts.count)
      for part in parts { output.int(part) }
    }
  }

  private mutating func open(_ call: Borg1Call) throws(ServeError) {
    var request = SegmentSession.OpenRequest(
      path: Array(call.block[try call.data(.path, limit: Limits.path)]))
    request.creates = try call.bool(.create)
    request.lockWait = try call.duration(.lockWait)
    request.appendOnly = try call.bool(.appendOnly)
    request.makesParents = try call.bool(.makeParentDirs)
    if try !call.bool(.lock, default: true) {
      request.locking = .none
    } else if let isExclusive = try call.optionalBool(.exclusive) {
      request.locking = isExclusive ? .exclusive : .shared
    }
    let id = try session.open(request)
    path = String(decoding: request.path, as: UTF8.self)
    reply(call) { $0.raw(id) }
  }

  private func check(_ call: Borg1Call) throws(ServeError) -> Bool {
    var request = SegmentRepository.CheckRequest()
    request.repairs = try call.bool(.repair)
    if let duration = try call.duration(.maxDuration), duration > .zero { request.maxDuration = duration }
    return try session.repository.check(request)
  }

  private func commit(_ call: Borg1Call) throws(ServeError) {
    var request = SegmentRepository.CommitRequest()
    request.compact = try call.bool(.compact, default: true)
    request.threshold = try call.double(.threshold) ?? request.threshold
    request.cleanupCommits = try call.bool(.cleanupCommits)
    try session.repository.commit(request)
  }

  /// Straight from the engine into the output: an object is copied nowhere in between.
  private mutating func get(_ call: Borg1Call) throws(ServeError) {
    let repository = try session.repository
    let id = try call.id(.id)
    let object = try repository.locate(id)
    output.beginAnswer(call.request.form, call.block[call.request.id])
    output.rawHead(length: object.size)
    try repository.read(object, into: &output.bytes)
  }

  private mutating func list(_ call: Borg1Call, inLogOrder: Bool) throws(ServeError) {
    let repository = try session.repository
    let limit = try call.int(.limit)
    guard limit ?? 1 >= (inLogOrder ? 1 : 0) else {
      throw .argumentValue("please use limit > 0 or limit = None")
    }
    // A page may be shorter than it could be: clients go on until one is empty.
    let most = Int(min(limit ?? .max, Int64(Limits.listPage)))
    let marker = call.isEmpty(.marker) ? nil : try call.id(.marker)
    let page = limit == nil ? most + 1 : most
    let ids =
      try inLogOrder
      ? repository.scan(limit: page, after: marker) : repository.list(limit: page, after: marker)
    guard ids.count <= most else {
      throw .argumentValue("more than \(Limits.listPage) objects: a limit is needed")
    }
    reply(call) { output in
      output.bytes.reserveCapacity(output.bytes.count + 8 + ids.count * (ObjectID.size + 3))
      output.array(count: ids.count)
      for id in ids { output.id(id) }
    }
  }

  private func injectException(_ call: Borg1Call) throws(ServeError) {
    let kind = String(decoding: call.block[try call.data(.kind, limit: Limits.path)], as: UTF8.self)
    let known: Set<String> = [
      "DoesNotExist", "AlreadyExists", "CheckNeeded", "IntegrityError", "PathNotAllowed", "ObjectNotFound",
      "InvalidRPCMethod", "divide",
    ]
    if known.contains(kind) { throw .injected(kind) }
  }
}

/// A request and typed access to its arguments: `argumentType` where the original raises `TypeError`.
private struct Borg1Call {
  let request: Borg1Request
  let block: [UInt8]

  var methodText: String { String(decoding: block[request.methodName], as: UTF8.self).shortened }

  func missing(_ parameter: Borg1Parameter) -> ServeError {
    .argumentType("\(methodText)() missing 1 required argument: '\(parameter.rawValue)'")
  }

  private func wrongType(_ parameter: Borg1Parameter, _ type: String) -> ServeError {
    .argumentType("\(methodText)() argument '\(parameter.rawValue)' must be \(type)")
  }

  /// The place of a string or binary in the block.
  func data(_ parameter: Borg1Parameter, limit: Int) throws(ServeError) -> Range<Int> {
    switch request.value(parameter) {
    case nil: throw missing(parameter)
    case .string(let range), .binary(let range):
      guard range.count > limit else { return range }
      throw tooLarge(parameter, range.count, limit)
    case .spooled(_, let length, _): throw tooLarge(parameter, length, limit)
    default: throw wrongType(parameter, "bytes")
    }
  }

  private func tooLarge(_ parameter: Borg1Parameter, _ length: Int, _ limit: Int) -> ServeError {
    parameter == .data
      ? .integrity("More than allowed put data [\(length) > \(limit)]")
      : .argumentValue("\(parameter.rawValue) is longer than \(limit) bytes")
  }

  func id(_ parameter: Borg1Parameter) throws(ServeError) -> ObjectID {
    let range = try data(parameter, limit: Limits.path)
    guard let id = ObjectID(block.span.extracting(range)) else {
      throw .argumentValue("\(parameter.rawValue) must be 32 bytes long")
    }
    return id
  }

  /// Missing, nil or without bytes.
  func isEmpty(_ parameter: Borg1Parameter) -> Bool {
    switch request.value(parameter) {
    case nil, .nil: true
    case .string(let range), .binary(let range): range.isEmpty
    default: false
    }
  }

  func optionalBool(_ parameter: Borg1Parameter) throws(ServeError) -> Bool? {
    switch request.value(parameter) {
    case nil, .nil: nil
    case .bool(let value): value
    case .int(let value): value != 0
    default: throw wrongType(parameter, "a bool")
    }
  }

  func bool(_ parameter: Borg1Parameter, default value: Bool = false) throws(ServeError) -> Bool {
    guard request.value(parameter) != nil else { return value }
    return try optionalBool(parameter) ?? false
  }

  func int(_ parameter: Borg1Parameter) throws(ServeError) -> Int64? {
    switch request.value(parameter) {
    case nil, .nil: nil
    case .int(let value): value
    default: throw wrongType(parameter, "an int")
    }
  }

  func double(_ parameter: Borg1Parameter) throws(ServeError) -> Double? {
    switch request.value(parameter) {
    case nil, .nil: nil
    case .int(let value): Double(value)
    case .float(let value): value
    default: throw wrongType(parameter, "a number")
    }
  }

  /// A number of seconds, at most some 30 years; nil if it is nil or missing.
  func duration(_ parameter: Borg1Parameter) throws(ServeError) -> Duration? {
    guard let seconds = try double(parameter) else { return nil }
    guard seconds >= 0 else { throw .argumentValue("\(parameter.rawValue) must not be negative") }
    return .nanoseconds(Int64((min(seconds, 1e9) * 1e9).rounded(.up)))
  }

  func nonce(_ parameter: Borg1Parameter) throws(ServeError) -> UInt64? {
    switch request.value(parameter) {
    case nil, .nil: return nil
    case .int(let value):
      guard let nonce = UInt64(exactly: value) else { throw wrongType(parameter, "a natural number") }
      return nonce
    case .encoded(let range):
      var reader = MessagePackReader(offset: range.lowerBound)
      guard case .uint(let value)? = try? reader.head(in: block.span) else { fallthrough }
      return value
    default: throw wrongType(parameter, "an int")
    }
  }
}
