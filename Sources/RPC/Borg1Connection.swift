import BorgFormat
import Disk
import SegmentRepository
import Session
import Synchronization
import SystemPackage

/// One Borg 1.x client's connection, from the bytes with which it said so to its last: reads requests, executes them in
/// order on the thread that runs it, and leaves the repository durable and unlocked whatever the end is.
///
/// One thread because the log of a repository has one end: what would run beside it would wait for it. Answers are
/// collected, and sent before the next wait for input. A class because the thread that watches for signals ends what
/// another one reads.
final class Borg1Connection: Sendable {
  private let input: ByteInput
  private let output: ByteOutput
  private let configuration: RPCConnection.Configuration
  let reporter: Borg1Reporter
  private let cancellation = Cancellation()
  private let isInterrupted = Atomic(false)
  /// Whether a request is being executed.
  private let isWorking = Atomic(false)
  /// Whether nobody waits for the answer once the client is gone.
  private let isAbandonable = Atomic(false)
  private let state: Mutex<State>

  private struct State {
    var timer: IdleTimer?
    var isIdle = false
    /// The thread that runs the connection, while it does.
    var waker: ThreadWaker?
    /// How long an interrupted connection's client may still take to read.
    var patienceEnds: ContinuousClock.Instant?
  }

  init(input: ByteInput, output: ByteOutput, configuration: RPCConnection.Configuration) {
    (self.input, self.output, self.configuration) = (input, output, configuration)
    reporter = Borg1Reporter(
      filter: configuration.filter, log: configuration.borg1Log, isJSON: configuration.logsJSON)
    state = Mutex(State(timer: configuration.idleTimeout.map { IdleTimer(timeout: $0, at: .now) }))
  }

  /// Ends the connection from another thread: the request that is being executed is completed, unless it waits for a
  /// lock or checks.
  func interrupt() {
    isInterrupted.store(true, ordering: .sequentiallyConsistent)
    cancellation.cancel()
    // Nor does the log's reader keep the lock any longer.
    reporter.stopWaiting()
    input.interrupt()
  }

  /// The periodic work, called every half second or so from another thread.
  func tick() {
    endIfIdle()
    if output.isHungUp { interrupt() }
    if isAbandonable.load(ordering: .relaxed), !input.isRegularFile, input.isHungUp {
      // The client cannot be told any more, and others want the lock.
      cancellation.cancel()
    }
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
    configuration.tell(
      "the connection ends because nothing has happened on it for as long as --idle-timeout allows")
    interrupt()
  }

  /// Serves until the connection ends, beginning with `arrived`, which was read before. Blocking.
  func run(after arrived: [UInt8], patience: Duration) -> ConnectionEnd {
    state.withLock { $0.waker = ThreadWaker() }
    defer { state.withLock { $0.waker = nil } }
    let session = SegmentSession(
      configuration: configuration.session,
      identity: configuration.lockIdentity,
      reporter: reporter, cancellation: cancellation)
    var server = Borg1Server(session: session, reporter: reporter, sysinfo: configuration.sysinfo)
    var end = serve(&server, Borg1Incoming(arrived), patience)
    // A client waits for the end now, and reads no log.
    reporter.stopWaiting()
    do {
      try session.close()
    } catch .notLocked(let lock) {
      // Somebody broke the lock: nothing is left to release, but what this client read may not have been one state.
      reporter.log(
        .error, .archiver, Borg1Error(.notLocked(lock), repository: "").message, messageID: "NotLocked")
      end = .broken
    } catch {
      configuration.tell("closing the repository failed: \(Borg1Error(error, repository: "").message)")
      end = .broken
    }
    reporter.begin()
    if end == .closed, !session.hasOpened {
      reporter.line("Borg 1.4.5: Got connection close before repository was opened.")
    }
    return state.withLock { $0.isIdle } ? .idle : end
  }

  // MARK: Reading and answering

  private func serve(_ server: inout Borg1Server, _ arrived: consuming Borg1Incoming, _ patience: Duration)
    -> ConnectionEnd
  {
    var incoming = arrived
    do {
      while true {
        do {
          while !isInterrupted.load(ordering: .relaxed), try incoming.next() {
            execute(incoming, &server)
            if server.output.bytes.count >= Limits.borg1Output { try flush(&server, patience) }
          }
        } catch let fault as RPCFault {
          // What stood before it was well-formed, and is answered.
          try flush(&server, patience)
          return .fault(fault)
        }
        try flush(&server, patience)
        if isInterrupted.load(ordering: .relaxed) { return .interrupted }
        switch try incoming.read(from: input) {
        case .bytes: continue
        case .end: return .closed
        case .interrupted: return .interrupted
        }
      }
    } catch {
      // A client that is gone is nothing to report.
      switch error as? Errno {
      case .brokenPipe, .connectionReset, .interrupted: break
      default: configuration.tell("the connection to the client failed: \(error)")
      }
      return isInterrupted.load(ordering: .relaxed) ? .interrupted : .broken
    }
  }

  private func execute(_ incoming: borrowing Borg1Incoming, _ server: inout Borg1Server) {
    isWorking.store(true, ordering: .relaxed)
    let isLong = incoming.request.method?.isAbandonedByHangup ?? false
    if isLong { isAbandonable.store(true, ordering: .relaxed) }
    server.answer(incoming.request, in: incoming.block)
    if isLong { isAbandonable.store(false, ordering: .relaxed) }
    isWorking.store(false, ordering: .relaxed)
    // The first request has said in which format the log is to be.
    if incoming.isFirst { reporter.begin() }
  }

  private func flush(_ server: inout Borg1Server, _ patience: Duration) throws(Errno) {
    guard !server.output.bytes.isEmpty else { return }
    try output.write(server.output.bytes) { patienceIsOver(patience) }
    if server.output.bytes.capacity > Limits.borg1KeptOutput {
      // Memory for the largest objects, or a long list, is not kept. That for most is: taking it anew from the kernel,
      // page by page, cost as much as reading the object.
      server.output = Borg1Output()
    } else {
      server.output.bytes.removeAll(keepingCapacity: true)
    }
  }

  private func patienceIsOver(_ patience: Duration) -> Bool {
    guard isInterrupted.load(ordering: .sequentiallyConsistent) else { return false }
    return state.withLock { state in
      let end = state.patienceEnds ?? .now + patience
      state.patienceEnds = end
      return .now >= end
    }
  }
}

/// The bytes that have come in, and the request that was found in them last.
///
/// One buffer, at whose end is read and at whose start requests are taken out; what is left is moved to the front only
/// when there is no room behind it, so that no byte is moved more than once for each block, however little a pipe gives
/// at a time.
private struct Borg1Incoming {
  private(set) var block: [UInt8]
  private(set) var request = Borg1Request()
  private(set) var requests = 0
  /// Where the next request begins.
  private var start = 0
  /// Bytes that the block has to hold before anything can be said.
  private var needed = 0
  private var hole: Borg1Request.Hole?
  /// Bytes of the hole's payload that are still to come.
  private var toDiscard = 0

  init(_ arrived: [UInt8]) { block = arrived }

  var isFirst: Bool { requests == 1 }

  /// Finds the next request; false if it has not arrived.
  mutating func next() throws(RPCFault) -> Bool {
    while true {
      guard toDiscard == 0, block.count > start, block.count >= needed else { return false }
      switch try request.parse(block, from: start, hole: hole) {
      case .request(let end):
        (start, needed, hole) = (end, 0, nil)
        requests += 1
        return true
      case .incomplete(let needed):
        self.needed = needed
        return false
      case .large(let found):
        let end = min(found.offset + found.length, block.count)
        toDiscard = found.length - (end - found.offset)
        block.removeSubrange(found.offset..<end)
        (hole, needed) = (found, 0)
      }
    }
  }

  mutating func read(from input: ByteInput) throws(Errno) -> ByteInput.Arrival {
    if toDiscard > 0 {
      var lost: [UInt8] = []
      let arrival = try input.read(into: &lost, room: min(toDiscard, Limits.readBlock))
      if case .bytes(let count) = arrival { toDiscard -= count }
      return arrival
    }
    if start == block.count {
      // Nothing is left; memory that a large message took is not kept.
      if block.capacity > 4 << 20 { block = [] } else { block.removeAll(keepingCapacity: true) }
      (needed, start) = (max(needed - start, 0), 0)
    }
    let hasRoom = block.capacity - block.count >= (start == 0 ? 1 : Limits.readBlock / 4)
    if !hasRoom || block.capacity < needed { makeRoom() }
    return try input.read(into: &block, room: block.capacity - block.count)
  }

  /// Moves what is left to the front of a buffer that has room for the rest of the request, and a block behind it.
  private mutating func makeRoom() {
    let wanted = max(needed - start, block.count - start) + Limits.readBlock
    if wanted > block.capacity {
      var larger: [UInt8] = []
      larger.reserveCapacity(wanted)
      larger.append(contentsOf: block[start...])
      block = larger
    } else {
      block.removeSubrange(..<start)
    }
    hole?.offset -= start
    (needed, start) = (max(needed - start, 0), 0)
  }
}
