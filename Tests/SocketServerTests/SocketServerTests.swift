import Disk
import Glibc
import SocketServer
import Synchronization
import SystemPackage
import Testing

/// A connection that says a word and then waits for its end.
private final class Greeter: ServedConnection {
  private let socket: ConnectedSocket
  private let input: ByteInput
  private let word: String
  private let tick_: @Sendable () -> Void

  init(_ accepted: SocketServer.Accepted, tick: @escaping @Sendable () -> Void = {}) throws {
    socket = accepted.socket
    input = try ByteInput(socket)
    word = accepted.admission == .served ? "welcome" : "full"
    tick_ = tick
  }

  func run() -> String {
    let bytes = Array(word.utf8)
    try? ByteOutput(socket).write(bytes, count: bytes.count)
    while true {
      switch try? input.read(behind: [], capacity: 100) {
      case .bytes: continue
      case .interrupted: return "interrupted"
      default: return "gone"
      }
    }
  }

  func interrupt() { input.interrupt() }

  func tick() { tick_() }
}

private func word(on socket: ConnectedSocket) throws -> String? {
  let input = try ByteInput(socket)
  let reading = try Background { () -> String? in
    guard case .bytes(let bytes)? = try? input.read(behind: [], capacity: 100) else { return nil }
    return String(decoding: bytes, as: UTF8.self)
  }
  return try #require(reading.value())
}

struct SocketServerTests {
  @Test func `clients are served side by side, and their ends are written down`() throws {
    let harbour = try Harbour { try Greeter($0) }
    let clients = try (0..<20).map { _ in try harbour.connect() }
    for client in clients { #expect(try word(on: client) == "welcome") }
    #expect(harbour.count == 20)
    clients[7].shutDown()
    #expect(harbour.journal.has("(#8, gone)"))
    #expect(harbour.journal.has("user \(Peer.user), process \(Host.processID)"))
    #expect(try word(on: harbour.connect()) == "welcome")
  }

  @Test
  func
    `a client beyond the limit is told so, one beyond that is hung up on, and a place that is free is had`()
    throws
  {
    var bounds = SocketServer.Bounds()
    (bounds.connections, bounds.refusals, bounds.grace) = (2, 1, .zero)
    let harbour = try Harbour(bounds: bounds) { try Greeter($0) }
    let served = try (0..<2).map { _ in try harbour.connect() }
    for client in served { #expect(try word(on: client) == "welcome") }
    let refused = try harbour.connect()
    #expect(try word(on: refused) == "full")
    #expect(try word(on: harbour.connect()) == nil)
    #expect(harbour.journal.has("at once"))
    served[0].shutDown()
    #expect(harbour.journal.has("(#1, gone)"))
    while harbour.count > 1 { Host.pause(.milliseconds(1)) }
    #expect(try word(on: harbour.connect()) == "welcome")
  }

  @Test func `a refused client that does not go is hung up on`() throws {
    var bounds = SocketServer.Bounds()
    (bounds.connections, bounds.grace, bounds.refusalTime) = (0, .zero, .zero)
    let harbour = try Harbour(bounds: bounds) { try Greeter($0) }
    let refused = try SocketClient(of: harbour)
    #expect(refused.isHungUpOn())
    #expect(harbour.journal.has("(#1, interrupted)"))
  }

  @Test func `a client that comes while the last one's end is under way waits for it`() throws {
    var bounds = SocketServer.Bounds()
    (bounds.connections, bounds.grace) = (1, deadline)
    let harbour = try Harbour(bounds: bounds) { try Greeter($0) }
    let first = try harbour.connect()
    #expect(try word(on: first) == "welcome")
    let second = try harbour.connect()
    first.shutDown()
    #expect(try word(on: second) == "welcome")
  }

  @Test func `a connection that is stuck in its tick delays no other one's`() throws {
    let gate = Monitor(false)
    let ticks = Monitor(0)
    let harbour = try Harbour { accepted in
      let isStuck = accepted.number == 1
      return try Greeter(accepted) {
        if isStuck { gate.wait { $0 ? () : nil } } else { ticks.update { $0 += 1 } }
      }
    }
    let clients = try (0..<2).map { _ in try harbour.connect() }
    #expect(ticks.wait(timeout: deadline) { $0 >= 3 ? true : nil } == true)
    gate.update { $0 = true }
    withExtendedLifetime(clients) {}
  }

  @Test func `a client for which nothing is left waits until something is, and so do others`() throws {
    var bounds = SocketServer.Bounds()
    bounds.pauseWhenExhausted = .milliseconds(10)
    let isExhausted = Monitor(true)
    let harbour = try Harbour(bounds: bounds) { accepted in
      guard !isExhausted.withLock({ $0 }) else { throw Errno.tooManyOpenFiles }
      return try Greeter(accepted)
    }
    let clients = try (0..<3).map { _ in try harbour.connect() }
    #expect(harbour.journal.has("Cannot serve more connections for now"))
    isExhausted.update { $0 = false }
    for client in clients { #expect(try word(on: client) == "welcome") }
    #expect(harbour.journal.lines.count { $0.contains("for now") } == 1)
  }

  @Test func `a stop interrupts all and waits for them`() throws {
    let harbour = try Harbour { try Greeter($0) }
    let clients = try (0..<10).map { _ in try harbour.connect() }
    for client in clients { #expect(try word(on: client) == "welcome") }
    #expect(harbour.stop())
    #expect(harbour.count == 0)
    #expect(harbour.journal.has("interrupted)", times: 10, within: .zero))
    for client in clients { #expect(try word(on: client) == nil) }
  }

  @Test func `a stop before anybody came ends the server`() throws {
    #expect(try Harbour { try Greeter($0) }.stop())
  }

  private enum Peer {
    static var user: Int { Int(Glibc.geteuid()) }
  }
}
