import BorgFormat
import Disk
import Glibc
import ObjectRepository
import RPC
import Session
import SystemPackage
import Testing

/// What a request came to.
enum Outcome: Hashable, Sendable {
  case success(Value)
  case failure(String, [Value])

  /// The result; nil for an error.
  var result: Value? { if case .success(let value) = self { value } else { nil } }
  /// The class of the error; nil for a result.
  var errorClass: String? { if case .failure(let name, _) = self { name } else { nil } }
  var arguments: [Value] { if case .failure(_, let arguments) = self { arguments } else { [] } }
}

/// A log record as a client gets it.
struct Record: Hashable, Sendable {
  var level: Int64
  var logger: String
  var message: String
}

/// A message as a client tells it apart.
enum Message: Sendable, Equatable {
  case reply(id: Value, Outcome, whole: Value, bytes: [UInt8])
  case record(Record)
}

/// Work of a connection that a test cannot wait for to its end keeps its descriptors: their numbers must not
/// become another test's.
private let kept = Monitor<[Channel]>([])

/// A client, and the connection that serves it on a thread of this process.
final class Client {
  let connection: RPCConnection
  private let server: Background<ConnectionEnd>
  private let (up, down): (Channel, Channel)
  private let input: ByteInput
  private var arrived: [UInt8] = []
  private var start = 0
  private var lastID: Int64 = 0
  private(set) var records: [Record] = []
  /// Where the client's repository is, for as long as the client lives.
  fileprivate var place: Place?

  /// How long an interrupted connection waits for this client to read.
  static let patience = Duration.milliseconds(20)

  init(_ kind: Channel.Kind = .pipe, configure: (inout RPCConnection.Configuration) -> Void = { _ in }) throws
  {
    signal(SIGPIPE, SIG_IGN)
    var configuration = RPCConnection.Configuration(owner: LockOwner(hostID: "tests@1"))
    configure(&configuration)
    (up, down) = (try Channel(kind), try Channel(kind))
    _ = fcntl(up.writer, F_SETFL, fcntl(up.writer, F_GETFL) | O_NONBLOCK)
    input = try ByteInput(down.reader)
    let connection = RPCConnection(
      input: try ByteInput(up.reader), output: ByteOutput(down.writer), configuration: configuration)
    self.connection = connection
    server = try Background { connection.run(patience: Self.patience) }
    let channels = [up, down]
    kept.withLock { $0 += channels }
  }

  deinit {
    up.closeWriter()
    down.closeReader()
    // The connection ends by that, whatever it was doing, and closes its repository.
    if server.value() == nil { Issue.record("the connection did not end after its client was gone") }
  }

  // MARK: Sending

  /// Sends all bytes; false if the server does not take them in time.
  @discardableResult
  func send(_ bytes: [UInt8], within timeout: Duration = deadline) -> Bool {
    let limit = ContinuousClock.now + timeout
    var done = 0
    while done < bytes.count {
      let count = unsafe bytes.withUnsafeBytes { buffer in
        unsafe write(up.writer, buffer.baseAddress.map { unsafe $0 + done }, bytes.count - done)
      }
      if count > 0 {
        done += count
        continue
      }
      guard errno == EAGAIN else { return false }
      var state = pollfd(fd: up.writer, events: Int16(POLLOUT), revents: 0)
      guard unsafe poll(&state, 1, Self.milliseconds(until: limit)) == 1 else { return false }
    }
    return true
  }

  /// The bytes of a request with a new id.
  func request(_ method: String, _ arguments: KeyValuePairs<String, Value> = [:]) -> [UInt8] {
    lastID += 1
    return Value.named(["i": .int(lastID), "m": .text(method), "a": .named(arguments)]).encoded
  }

  // MARK: Receiving

  /// The next message; nil if none comes in time.
  func message(within timeout: Duration = deadline) -> Message? {
    let limit = ContinuousClock.now + timeout
    while true {
      var offset = start
      if let value = try? Value(arrived, at: &offset) {
        defer { start = offset }
        return interpreted(value, Array(arrived[start..<offset]))
      }
      guard waitUntilReadable(limit), case .bytes(let more)? = try? input.read(behind: [], capacity: 1 << 20)
      else { return nil }
      arrived.removeFirst(start)
      start = 0
      arrived += more
    }
  }

  /// False when the time is over, or the connection is and nothing is left of it.
  private func waitUntilReadable(_ limit: ContinuousClock.Instant) -> Bool {
    while true {
      let hasEnded = server.value(within: .zero) != nil
      let left = hasEnded ? 0 : min(Self.milliseconds(until: limit), 50)
      var state = pollfd(fd: down.reader, events: Int16(POLLIN), revents: 0)
      if unsafe poll(&state, 1, left) == 1 { return true }
      if hasEnded || ContinuousClock.now >= limit { return false }
    }
  }

  private static func milliseconds(until limit: ContinuousClock.Instant) -> Int32 {
    let left = limit - ContinuousClock.now
    return Int32(max(0, left / .milliseconds(1)).rounded(.up))
  }

  /// The last message as it came.
  private(set) var lastBytes: [UInt8] = []

  private func interpreted(_ value: Value, _ bytes: [UInt8]) -> Message? {
    lastBytes = bytes
    if let record = value["l"] {
      let record = Record(
        level: record["level"]?.int ?? -1, logger: record["name"]?.text ?? "",
        message: record["msg"]?.text ?? "")
      records.append(record)
      return .record(record)
    }
    guard let id = value["i"] else { return nil }
    if let result = value["r"] { return .reply(id: id, .success(result), whole: value, bytes: bytes) }
    guard let name = value["exception_class"]?.text, let arguments = value["exception_args"]?.array else {
      return nil
    }
    return .reply(id: id, .failure(name, arguments), whole: value, bytes: bytes)
  }

  /// The next reply, records before it kept.
  func reply() throws -> (id: Value, outcome: Outcome, whole: Value, bytes: [UInt8]) {
    while true {
      switch try #require(message()) {
      case .reply(let id, let outcome, let whole, let bytes): return (id, outcome, whole, bytes)
      case .record: continue
      }
    }
  }

  /// Sends a request and waits for its reply.
  func call(_ method: String, _ arguments: KeyValuePairs<String, Value> = [:]) throws -> Outcome {
    try #require(send(request(method, arguments)))
    let reply = try reply()
    #expect(reply.id == .int(lastID))
    return reply.outcome
  }

  /// Reads the outcomes of so many requests, and checks that they come in order behind `first`.
  func outcomes(_ count: Int, from first: Int64) throws -> [Outcome] {
    try (0..<count).map { index in
      let reply = try reply()
      #expect(reply.id == .int(first + Int64(index)))
      return reply.outcome
    }
  }

  var nextID: Int64 { lastID + 1 }

  // MARK: Ends

  /// Closes this client's sending end, reads what still comes, and gives how the connection ended.
  func hangUp() -> ConnectionEnd? {
    up.closeWriter()
    return end()
  }

  /// Waits for the connection's end while reading what comes.
  func end(reading: Bool = true) -> ConnectionEnd? {
    guard reading else { return server.value() }
    let limit = ContinuousClock.now + deadline
    while ContinuousClock.now < limit {
      while message(within: .milliseconds(5)) != nil {}
      if let end = server.value(within: .milliseconds(5)) { return end }
    }
    return nil
  }

  /// The connection's end, if it has come.
  func hasEnded(within timeout: Duration) -> ConnectionEnd? { server.value(within: timeout) }

  func stopSending() { up.closeWriter() }

  func stopReading() { down.closeReader() }
}

/// A directory with a repository in it, and ways to look behind the server's back.
final class Place {
  let root: TemporaryDirectory
  let repository: [UInt8]

  init() throws {
    root = try TemporaryDirectory()
    repository = root.path + Array("/repository".utf8)
  }

  var path: Value { .string(repository) }

  /// A client that has negotiated and opened the repository, which it creates if it is not there.
  func client(
    _ kind: Channel.Kind = .pipe, exclusive: Bool = true, version: [Int64]? = [2, 0, 0, -3, 18],
    configure: (inout RPCConnection.Configuration) -> Void = { _ in }
  ) throws -> Client {
    let client = try Client(kind, configure: configure)
    client.place = self
    if let version {
      let data = Value.named(["client_version": .array(version.map { .int($0) })])
      #expect(try client.call("negotiate", ["client_data": data]).result != nil)
    }
    let creates = entries("repository") == nil
    let outcome = try client.call(
      "open", ["path": path, "create": .bool(creates), "exclusive": .bool(exclusive), "lock_wait": 1])
    try #require(outcome.result?.bytes?.count == 32)
    return client
  }

  /// Entries of a directory, sorted; nil if it is not there.
  func entries(_ name: String) -> [String]? { try? root.directory.directory(name).entries().sorted() }

  var locks: Int { (entries("repository/locks") ?? []).filter { !$0.hasSuffix(".tmp") }.count }

  /// All names below the root that belong to something unfinished: there are none after a connection.
  func leftovers(in name: String = ".") -> [String] {
    (entries(name) ?? []).flatMap { entry in
      let path = "\(name)/\(entry)"
      return (entry.hasSuffix(".tmp") ? [path] : []) + leftovers(in: path)
    }
  }

  /// What connections that last keep in their staging areas: values that have no name yet.
  var staged: [String] {
    leftovers(in: "repository").filter { $0.hasSuffix("/borg-serve.tmp") }.flatMap { area in
      (entries(area) ?? []).flatMap { session in
        (entries("\(area)/\(session)") ?? []).map { "\(area)/\(session)/\($0)" }
      }
    }
  }

  func write(_ name: String, _ bytes: [UInt8]) throws {
    if let parent = name.parentName { _ = try root.directory.makeDirectories(parent) }
    _ = try root.directory.remove(name)
    try root.directory.create(name).write(bytes, 0..<bytes.count, at: 0)
  }

  func content(_ name: String) throws -> [UInt8] {
    let file = try root.directory.file(name)
    return try file.read(at: 0, count: file.size())
  }

  /// A lock that a living process of another host has on the repository.
  func writeLock(exclusive: Bool, process: Int = 1) throws -> String {
    let record = LockRecord(
      isExclusive: exclusive, hostID: "elsewhere@2", processID: process,
      time: Timestamp(milliseconds: Host.now()))
    try write("repository/locks/\(record.key)", record.encoded)
    return record.key
  }

  /// A sound object with so many bytes of metadata and data.
  static func object(meta: Int, data: Int) -> [UInt8] {
    let meta = (0..<meta).map { UInt8(truncatingIfNeeded: $0) }
    let data = (0..<data).map { UInt8(truncatingIfNeeded: $0 / 251) }
    var bytes: [UInt8] = []
    for size in [meta.count, data.count] {
      bytes += (0..<4).map { UInt8(truncatingIfNeeded: size >> ($0 * 8)) }
    }
    for part in [meta, data] {
      let hash = XXH64.hash(part)
      bytes += (0..<8).map { UInt8(truncatingIfNeeded: hash >> (56 - 8 * UInt64($0))) }
    }
    return bytes + meta + data
  }

  /// A file name in `data/`.
  static func name(_ byte: UInt8) -> String {
    let pair = Hex.string([byte])
    return "repository/data/\(pair)/\(pair)/\(String(repeating: pair, count: 32))"
  }
}
