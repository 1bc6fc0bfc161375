import BorgFormat
public import Disk
import Session
import Storage
import Synchronization
import SystemPackage

/// One client's connection upon a pair of streams, from its first byte to its last: reads requests, has each answered
/// before the next is read, and leaves everything that was stored durable whatever the end is.
///
/// One thread: clients wait for each answer before they send the next request. A class because the thread that watches for
/// signals ends what another one reads.
public final class RESTConnection: Sendable {
  /// How a connection came to its end.
  public enum End: Equatable, Sendable {
    /// The client closed it, at whatever point: what had not arrived as a whole is not stored.
    case closed
    /// `interrupt` was called.
    case interrupted
    /// The client sent what is no request, or none that can be told from the next one: why.
    case malformed(String)
    /// The client cannot be reached, an answer could not be completed, or not everything could be made durable.
    case broken
    /// Nothing has happened for as long as is allowed.
    case idle
  }

  private let input: ByteInput
  private let output: ByteOutput
  private let service: Service
  private let tell: @Sendable (String) -> Void
  private let isInterrupted = Atomic(false)
  /// Whether a request is being executed or answered.
  private let isWorking = Atomic(false)
  /// Whether an answer is being written.
  private let isAnswering = Atomic(false)
  private let state: Mutex<State>

  private struct State {
    var timer: IdleTimer?
    var isIdle = false
    /// The thread that runs the connection, while it does.
    var waker: ThreadWaker?
    /// Until when an interrupted connection's client may still read.
    var patienceEnds: ContinuousClock.Instant?
  }

  /// How long a client that was interrupted gets to read its last answer.
  private let patience: Duration

  /// `patience` is how long a client that was interrupted gets to read its last answer; `tell` takes one line for the
  /// administrator, where no client can be told.
  public init(
    input: ByteInput, output: ByteOutput, service: Service, idleTimeout: Duration? = nil,
    patience: Duration = .seconds(1),
    tell: @escaping @Sendable (String) -> Void = { printToStandardError("borg-serve: \($0)") }
  ) {
    (self.input, self.output, self.service, self.tell) = (input, output, service, tell)
    self.patience = patience
    state = Mutex(State(timer: idleTimeout.map { IdleTimer(timeout: $0, at: .now) }))
  }

  /// Ends the connection from another thread: a request that has arrived is completed and answered.
  public func interrupt() {
    state.withLock { if $0.patienceEnds == nil { $0.patienceEnds = .now + patience } }
    isInterrupted.store(true, ordering: .sequentiallyConsistent)
    input.interrupt()
  }

  /// Whether the connection was interrupted and waits for a client that does not read, in a system call from which nothing
  /// gets it: what there is to do is `abandon`, and to end the process.
  public var isStuck: Bool {
    patienceIsOver && isAnswering.load(ordering: .sequentiallyConsistent)
  }

  /// Makes everything durable while the connection's own thread is stuck. False if that fails.
  public func abandon() -> Bool { close() }

  /// The periodic work, called every half second or so from another thread.
  public func tick() {
    service.place.tick()
    endIfIdle()
    if output.isHungUp { interrupt() }
    // A write that waits for a client that does not read is given up.
    if isInterrupted.load(ordering: .sequentiallyConsistent) { state.withLock { $0.waker?.wake() } }
  }

  private func endIfIdle() {
    let isNewlyOver = state.withLock { state in
      guard !state.isIdle, state.timer != nil else { return false }
      let moved = input.bytesMoved &+ output.bytesMoved
      state.isIdle =
        state.timer?.isOver(moved: moved, isWorking: isWorking.load(ordering: .relaxed), at: .now) ?? false
      return state.isIdle
    }
    guard isNewlyOver else { return }
    tell("the connection ends because nothing has happened on it for as long as --idle-timeout allows")
    interrupt()
  }

  /// Serves until the connection ends. Blocking.
  ///
  /// When it returns everything is durable, or the end says otherwise.
  public func run() -> End {
    state.withLock { $0.waker = ThreadWaker() }
    defer { state.withLock { $0.waker = nil } }
    var end = serve()
    if !close() { end = .broken }
    return state.withLock { $0.isIdle } ? .idle : end
  }

  private func close() -> Bool {
    do {
      try service.place.close()
      return true
    } catch {
      tell("not everything could be made durable: \(Refusal(error).text)")
      return false
    }
  }

  // MARK: One request after the other

  private func serve() -> End {
    var incoming = Incoming()
    var writer = AnswerWriter(output: output) { self.patienceIsOver }
    do {
      while true {
        guard let head = try nextHead(&incoming) else { return endOfInput }
        isWorking.store(true, ordering: .relaxed)
        defer { isWorking.store(false, ordering: .relaxed) }
        let exchange = service.begin(head)
        guard try receive(head.contentLength, exchange, &incoming) else {
          exchange.abandon()
          return endOfInput
        }
        let answer = exchange.finish()
        isAnswering.store(true, ordering: .relaxed)
        try writer.write(answer, withBody: head.method != .head)
        isAnswering.store(false, ordering: .relaxed)
      }
    } catch let fault as HeadFault {
      try? writer.write(
        Answer(Refusal(fault.status, fault.text), closes: true), withBody: true)
      return .malformed(fault.text)
    } catch let failure as ServeError {
      tell("the connection ends because an answer cannot be completed: \(Refusal(failure).text)")
      return .broken
    } catch {
      // A client that is gone is nothing to report.
      switch error as? Errno {
      case .brokenPipe, .connectionReset, .interrupted: break
      default: tell("the connection to the client failed: \(error)")
      }
      return isInterrupted.load(ordering: .relaxed) ? .interrupted : .broken
    }
  }

  private var endOfInput: End { isInterrupted.load(ordering: .relaxed) ? .interrupted : .closed }

  /// Waits for the head of the next request; nil at the end of the input.
  private func nextHead(_ incoming: inout Incoming) throws -> RequestHead? {
    var reader = HeadReader(from: incoming.begin())
    while true {
      if isInterrupted.load(ordering: .relaxed) { return nil }
      if let (head, end) = try reader.next(in: incoming.block) {
        incoming.start = end
        return head
      }
      guard case .bytes = try input.read(into: &incoming.block, room: Limits.readBlock) else { return nil }
    }
  }

  /// Hands the body over piece by piece; false if it ends early.
  private func receive(_ length: Int, _ exchange: any Exchange, _ incoming: inout Incoming) throws -> Bool {
    var left = length
    while true {
      let count = min(left, incoming.block.count - incoming.start)
      if count > 0 {
        exchange.receive(incoming.block, incoming.start..<incoming.start + count)
        incoming.start += count
        left -= count
      }
      if left == 0 { return true }
      incoming.clear()
      // What follows the body may come with it, and stays.
      guard case .bytes = try input.read(into: &incoming.block, room: Limits.readBlock) else { return false }
    }
  }

  private var patienceIsOver: Bool {
    guard isInterrupted.load(ordering: .sequentiallyConsistent) else { return false }
    return state.withLock { $0.patienceEnds.map { .now >= $0 } ?? false }
  }
}

/// The bytes that have come in, and where those begin that nobody has taken yet.
private struct Incoming {
  var block: [UInt8] = []
  var start = 0

  /// Where the next request begins, with room behind it.
  mutating func begin() -> Int {
    if start == block.count {
      clear()
    } else if start > 0 {
      block.removeSubrange(..<start)
      start = 0
    }
    return start
  }

  mutating func clear() {
    block.removeAll(keepingCapacity: true)
    start = 0
  }
}

extension Answer {
  /// A refusal after which the connection ends.
  init(_ refusal: Refusal, closes: Bool) {
    self.init(refusal)
    if closes { fields.append((name: "Connection", value: "close")) }
  }
}
