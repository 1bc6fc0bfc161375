import BorgFormat
public import Disk
public import SystemPackage

/// One client being served, as the server of sockets sees it.
public protocol ServedConnection: Sendable {
  /// Serves until the connection ends; returns how it did, in a few words. Blocking.
  ///
  /// When it returns no thread of its own is left.
  func run() -> String

  /// Ends the connection soon, from another thread, also before it runs.
  func interrupt()

  /// The periodic work, twice a second, on a thread of this connection's own.
  func tick()
}

/// Serves the clients of unix sockets side by side, each on threads of its own: none can hold up, confuse or end
/// another, nor the server.
///
/// Knows no protocol: what is done with a connection comes in as closures. A class because the thread that stops it is
/// another one than the one that runs it.
public final class SocketServer: Sendable {
  /// How many clients are served, and refused, at a time.
  public struct Bounds: Sendable {
    public var connections = Limits.socketConnections
    /// Clients beyond the limit that are told so; further ones find their connection closed.
    public var refusals = Limits.socketRefusals
    /// How long one of those may take to hear it.
    public var refusalTime = Duration.seconds(5)
    /// How long a client may wait for another one's end before it is one too many: stock clients do not wait for the
    /// end of their own connection, so that the next one may come while the last is being closed.
    public var grace = Duration.milliseconds(500)
    /// How long no client is accepted after the system had no descriptor, or no memory, for one.
    public var pauseWhenExhausted = Duration.seconds(1)

    public init() {}
  }

  /// What a client is to be served with.
  public enum Admission: Sendable {
    case served
    /// It is one too many: it is to be told, in words that its client shows, and to go.
    case refused
  }

  /// One accepted connection, for whoever makes a `ServedConnection` of it.
  public struct Accepted: Sendable {
    public let socket: ConnectedSocket
    public let admission: Admission
    /// Counts the connections of this server, from 1.
    public let number: Int
  }

  private let listeners: [ListeningSocket]
  private let bounds: Bounds
  private let serve: @Sendable (Accepted) throws -> any ServedConnection
  private let tell: @Sendable (String) -> Void
  private let wake: WakeUp
  private let state = Monitor(State())

  private struct State {
    var isStopping = false
    var lastNumber = 0
    /// When a client last waited for a place.
    var lastWait = ContinuousClock.now - .seconds(3600)
    /// A client that was accepted and could not be served yet.
    var unserved: (ConnectedSocket, ListeningSocket)?
    /// Whether the administrator knows that nothing is left to accept clients with.
    var isExhausted = false
    var served: [Int: any ServedConnection] = [:]
    var refused: [Int: any ServedConnection] = [:]
    /// Threads that have done their work and are to be joined, and all others by number.
    var threads: [Int: WorkerThread] = [:]
    var ended: [Int] = []
  }

  /// `serve` makes a connection of a socket, quickly; it runs on a thread of its own. It throws only what may be
  /// different after a while: the client is kept until then. `tell` takes one line for the administrator.
  public init(
    listeners: [ListeningSocket], bounds: Bounds, tell: @escaping @Sendable (String) -> Void,
    serve: @escaping @Sendable (Accepted) throws -> any ServedConnection
  ) throws(Errno) {
    (self.listeners, self.bounds, self.serve, self.tell) = (listeners, bounds, serve, tell)
    wake = try WakeUp()
  }

  /// Serves until `stop`, then waits for all connections to end. Blocking. `stopping` is called in between, when no
  /// client is accepted any more.
  public func run(stopping: () -> Void = {}) {
    var isPaused = false
    while !state.withLock({ $0.isStopping }) {
      // The end of a connection, which wakes, may free what was missing.
      let pause = Int32(bounds.pauseWhenExhausted / .milliseconds(1))
      wake.wait(orFor: isPaused ? [] : listeners, milliseconds: isPaused ? pause : -1)
      joinEnded()
      isPaused = !acceptAll()
    }
    state.withLock { $0.unserved = nil }
    stopping()
    let connections = state.withLock { Array($0.served.values) + Array($0.refused.values) }
    for connection in connections { connection.interrupt() }
    state.wait { $0.served.isEmpty && $0.refused.isEmpty ? () : nil }
    joinEnded()
  }

  /// Makes `run` return, from any thread: no further client is accepted, and all connections are interrupted.
  public func stop() {
    state.update { $0.isStopping = true }
    wake.raise()
  }

  /// Clients that are being served now.
  public var count: Int { state.withLock { $0.served.count } }

  // MARK: Accepting

  /// Takes all clients that wait, one of each socket in turn; false if the system has nothing left to take them with.
  private func acceptAll() -> Bool {
    do {
      if let (socket, listener) = state.withLock({ $0.unserved }) { try begin(socket, from: listener) }
      var hasMore = true
      while hasMore {
        hasMore = false
        for listener in listeners where !state.withLock({ $0.isStopping }) {
          guard let socket = try listener.accept() else { continue }
          hasMore = true
          try begin(socket, from: listener)
          // Clients that come and go must not pile up as threads that nobody joins.
          joinEnded()
        }
      }
      state.withLock { $0.isExhausted = false }
      return true
    } catch {
      let isNew = state.withLock { state in
        defer { state.isExhausted = true }
        return !state.isExhausted
      }
      if isNew { tell("Cannot serve more connections for now: \(error)") }
      return false
    }
  }

  /// Serves a client, or refuses it. Throws if the system lacks what that needs; then the client waits for its turn.
  private func begin(_ socket: ConnectedSocket, from listener: ListeningSocket) throws {
    state.withLock { $0.unserved = (socket, listener) }
    waitForPlace()
    let (admission, number): (Admission?, Int) = state.withLock { state in
      state.lastNumber += 1
      if state.served.count < bounds.connections { return (.served, state.lastNumber) }
      return (state.refused.count < bounds.refusals ? .refused : nil, state.lastNumber)
    }
    let peer = socket.peer.map { ", user \($0.userID), process \($0.processID)" } ?? ""
    let name = "#\(number)\(peer)"
    guard let admission else {
      state.withLock { $0.unserved = nil }
      tell("Closed a connection on socket \(listener.name) at once: too many already (\(name))")
      return
    }
    let connection = try serve(Accepted(socket: socket, admission: admission, number: number))
    state.withLock { $0.unserved = nil }
    switch admission {
    case .served: tell("Accepted a connection on socket \(listener.name) ... (\(name))")
    case .refused: tell("Refusing a connection on socket \(listener.name) : too many already (\(name))")
    }
    start(connection, socket, admission, number) { [tell] end in
      tell("Finished with connection on socket \(listener.name) . (#\(number), \(end))")
    }
  }

  /// Waits for a moment if there is no place. Nobody else could be accepted meanwhile; in a crowd only the first
  /// client of each moment waits.
  private func waitForPlace() {
    let mayWait = state.withLock { state in
      state.served.count >= bounds.connections && .now - state.lastWait > bounds.grace
    }
    guard mayWait else { return }
    _ = state.wait(timeout: bounds.grace) { state in
      state.served.count < bounds.connections || state.isStopping ? () : nil
    }
    state.withLock { $0.lastWait = .now }
  }

  private func start(
    _ connection: any ServedConnection, _ socket: ConnectedSocket, _ admission: Admission, _ number: Int,
    finished: @escaping @Sendable (String) -> Void
  ) {
    state.withLock { state in
      switch admission {
      case .served: state.served[number] = connection
      case .refused: state.refused[number] = connection
      }
    }
    let limit = admission == .refused ? bounds.refusalTime : nil
    let thread = WorkerThread { [self] in
      let how = Self.run(connection, limit: limit)
      // The client learns of the end now, whoever may still hold the socket.
      socket.shutDown()
      finished(how)
      end(number)
    }
    if let thread {
      state.withLock { $0.threads[number] = thread }
    } else {
      finished("no more threads")
      end(number)
    }
  }

  /// Runs a connection while another thread ticks for it: one that blocks in a tick delays no other.
  private static func run(_ connection: any ServedConnection, limit: Duration?) -> String {
    let ended = Cancellation()
    let started = ContinuousClock.now
    let ticker = WorkerThread {
      while !ended.sleep(.milliseconds(500)) {
        connection.tick()
        if let limit, ContinuousClock.now - started > limit { connection.interrupt() }
      }
    }
    // Without its ticks a lock would go stale: better no service.
    guard let ticker else { return "no more threads" }
    defer {
      ended.cancel()
      ticker.join()
    }
    return connection.run()
  }

  private func end(_ number: Int) {
    state.update { state in
      state.served[number] = nil
      state.refused[number] = nil
      state.ended.append(number)
    }
    wake.raise()
  }

  private func joinEnded() {
    let threads = state.withLock { state in
      defer { state.ended = [] }
      return state.ended.compactMap { state.threads.removeValue(forKey: $0) }
    }
    for thread in threads { thread.join() }
  }
}

extension ListeningSocket {
  /// The path for messages; an abstract name begins with `@`.
  public var name: String {
    let text = path.first == 0 ? [UInt8(ascii: "@")] + path.dropFirst() : path
    return String(decoding: text, as: UTF8.self)
  }
}
