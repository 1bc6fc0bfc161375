import BorgFormat
import Disk
import Glibc
import ObjectRepository
import RPC
import Session
import SocketServer
import Testing

/// Lines for an administrator, which tests wait for.
final class Journal: Sendable {
  private let state = Monitor<[String]>([])

  func tell(_ line: String) { state.update { $0.append(line) } }

  var lines: [String] { state.withLock { $0 } }

  /// Whether a line with this in it comes in time.
  func has(_ text: String, times: Int = 1, within timeout: Duration = deadline) -> Bool {
    state.wait(timeout: timeout) { lines in
      lines.count { $0.contains(text) } >= times ? true : nil
    } ?? false
  }
}

/// A directory for a socket, its server, and all that they leave behind.
final class Harbour {
  let root: TemporaryDirectory
  let path: [UInt8]
  let journal = Journal()
  private let file: SocketFile
  private let server: SocketServer
  private let running: Background<Bool>

  /// A server that does with each client what `serve` says.
  init(
    bounds: SocketServer.Bounds = .init(),
    serve: @escaping @Sendable (SocketServer.Accepted) throws -> any ServedConnection
  ) throws {
    signal(SIGPIPE, SIG_IGN)
    root = try TemporaryDirectory()
    path = root.path + Array("/x.sock".utf8)
    file = try SocketFile(at: path)
    let journal = journal
    let server = try SocketServer(
      listeners: [file.listener], bounds: bounds, tell: journal.tell, serve: serve)
    self.server = server
    running = try Background {
      server.run()
      return true
    }
  }

  deinit {
    if !stop() { Issue.record("the server did not end") }
    file.remove()
  }

  var count: Int { server.count }

  /// Stops the server; false if it does not end in time.
  @discardableResult
  func stop(within timeout: Duration = deadline) -> Bool {
    server.stop()
    return running.value(within: timeout) == true
  }

  func connect() throws -> ConnectedSocket { try ConnectedSocket(connectingTo: path) }
}

/// A Borg client on a socket.
final class SocketClient {
  private let socket: ConnectedSocket
  private let input: ByteInput
  private let output: ByteOutput
  private var arrived: [UInt8] = []
  private var lastID: Int64 = 0

  init(_ socket: ConnectedSocket) throws {
    self.socket = socket
    input = try ByteInput(socket)
    output = ByteOutput(socket)
  }

  convenience init(of harbour: Harbour) throws { try self.init(harbour.connect()) }

  deinit { input.interrupt() }

  func request(_ method: String, _ arguments: KeyValuePairs<String, Value> = [:]) -> [UInt8] {
    lastID += 1
    return Value.named(["i": .int(lastID), "m": .text(method), "a": .named(arguments)]).encoded
  }

  /// Sends without caring whether anybody is there.
  func send(_ bytes: [UInt8]) { try? output.write(bytes, count: bytes.count) }

  /// The next answer, log records left out; nil if the connection ends or nothing comes in time.
  func answer(within timeout: Duration = deadline) -> Value? {
    let limit = ContinuousClock.now + timeout
    while true {
      var offset = 0
      if let value = try? Value(arrived, at: &offset) {
        arrived.removeFirst(offset)
        if value["l"] == nil { return value }
        continue
      }
      guard let more = read(until: limit) else { return nil }
      arrived += more
    }
  }

  private func read(until limit: ContinuousClock.Instant) -> [UInt8]? {
    let input = input
    let reading = try? Background { () -> [UInt8]? in
      if case .bytes(let bytes)? = try? input.read(behind: [], capacity: 1 << 16) { bytes } else { nil }
    }
    return reading?.value(within: limit - .now) ?? nil
  }

  /// Sends a request; its answer.
  func call(_ method: String, _ arguments: KeyValuePairs<String, Value> = [:]) -> Value? {
    send(request(method, arguments))
    return answer()
  }

  /// Reads until the server hangs up; false if it does not in time.
  func isHungUpOn(within timeout: Duration = deadline) -> Bool {
    let limit = ContinuousClock.now + timeout
    while ContinuousClock.now < limit {
      if read(until: limit) == nil { return ContinuousClock.now < limit }
    }
    return false
  }

  func hangUp() { socket.shutDown() }
}

/// Repositories behind a socket, served as the program does.
final class Marina {
  let harbour: Harbour
  let repositories: TemporaryDirectory

  init(
    bounds: SocketServer.Bounds = .init(),
    configure: @escaping @Sendable (inout RPCConnection.Configuration) -> Void = { _ in }
  ) throws {
    repositories = try TemporaryDirectory()
    let told = Journal()
    self.told = told
    let known = Monitor<[Remembered]>([])
    self.known = known
    let owner = LockOwner(hostID: "tests@1")
    harbour = try Harbour(bounds: bounds) { accepted in
      var configuration = RPCConnection.Configuration(owner: owner)
      configuration.tell = { told.tell("#\(accepted.number): \($0)") }
      if accepted.admission == .refused { configuration.session.refusal = .unsupported("too many") }
      configure(&configuration)
      let input = try ByteInput(accepted.socket)
      known.update { $0.append(Remembered(input: input)) }
      return Served(
        connection: RPCConnection(
          input: input, output: ByteOutput(accepted.socket), configuration: configuration))
    }
  }

  /// What connections told the administrator.
  let told: Journal

  private let known: Monitor<[Remembered]>

  private struct Remembered: Sendable {
    weak let input: ByteInput?
  }

  /// The inputs that somebody still holds, and their descriptors with them.
  var inputs: [ByteInput] { known.withLock { $0.compactMap(\.input) } }

  private struct Served: ServedConnection {
    let connection: RPCConnection
    func run() -> String { "\(connection.run())" }
    func interrupt() { connection.interrupt() }
    func tick() { connection.tick() }
  }

  func path(_ name: String) -> Value { .string(repositories.path + Array("/\(name)".utf8)) }

  /// A client that has opened a repository, which it creates if it is not there.
  func client(_ name: String = "repository", exclusive: Bool = true) throws -> SocketClient {
    let client = try SocketClient(of: harbour)
    let creates = (try? repositories.directory.directory(name)) == nil
    let answer = client.call(
      "open", ["path": path(name), "create": .bool(creates), "exclusive": .bool(exclusive), "lock_wait": 5])
    try #require(answer?["r"]?.bytes?.count == 32, "\(String(describing: answer))")
    return client
  }

  func locks(_ name: String = "repository") -> Int {
    let entries = (try? repositories.directory.directory("\(name)/locks").entries()) ?? []
    return entries.filter { !$0.hasSuffix(".tmp") }.count
  }
}
