public import BorgFormat
public import Disk
public import ObjectRepository
import SegmentRepository
public import Session
import Storage
import Synchronization

/// How a connection came to its end.
public enum ConnectionEnd: Equatable, Sendable {
  /// The client closed it.
  case closed
  /// `interrupt` was called.
  case interrupted
  /// The client sent what is no request.
  case fault(RPCFault)
  /// The client cannot be reached.
  case broken
  /// Nothing has happened for as long as is allowed.
  case idle
}

/// One client's connection, from its first byte to its last: reads requests, has them answered, and leaves
/// the repository whole and unlocked whatever the end is.
///
/// A class because the thread that watches for signals ends what another one reads.
public final class RPCConnection: Sendable {
  private let input: ByteInput
  private let output: ByteOutput
  private let session: Session
  private let server: RPCServer
  private let reporter: RPCReporter
  private let pipeline: RequestPipeline<RPCServer>
  let tell: @Sendable (String) -> Void
  private let idle: Mutex<IdleState>

  private struct IdleState {
    var timer: IdleTimer?
    var isOver = false
  }

  /// Two workers: with one, half of the time of small objects goes by waiting for the kernel's locks and
  /// journal; a third gains nothing on one disk.
  private static let workers = 2

  /// Requests that are handed over together: workers begin while the rest of a block is still being parsed.
  private static let callsAtOnce = 64

  /// What the server knows before anything is read.
  public struct Configuration: Sendable {
    public var session = SessionConfiguration()
    public var filter = LogFilter()
    /// Describes the server in error replies, for bug reports.
    public var sysinfo = ""
    public let owner: LockOwner
    /// The owner as the locks of Borg 1.x name it: copies of one configuration serve the sessions of one process, which
    /// have to know of each other's locks.
    let lockIdentity: LockIdentity
    /// Where the log goes that Borg 1.x has beside its protocol.
    public var borg1Log = Borg1Log.client(descriptor: 2)
    /// Whether that log is JSON before the client has negotiated, too.
    public var logsJSON = false
    /// How long nothing may happen on the connection before it is ended; nil: for good.
    public var idleTimeout: Duration?
    /// Takes one line for the administrator, where no client can be told.
    public var tell: @Sendable (String) -> Void = { printToStandardError("borg-serve: \($0)") }

    public init(owner: LockOwner) {
      self.owner = owner
      lockIdentity = LockIdentity(of: owner)
    }
  }

  public init(input: ByteInput, output: ByteOutput, configuration: Configuration) {
    let reporter = RPCReporter(filter: configuration.filter)
    let cancellation = Cancellation()
    let session = Session(
      configuration: configuration.session, owner: configuration.owner, reporter: reporter,
      cancellation: cancellation)
    let borg1 = Borg1Source(
      SegmentSession(
        configuration: configuration.session, identity: configuration.lockIdentity,
        reporter: reporter, cancellation: cancellation))
    let server = RPCServer(
      session: session, borg1: borg1, reporter: reporter, sysinfo: configuration.sysinfo)
    (self.input, self.output, self.session, self.server) = (input, output, session, server)
    self.reporter = reporter
    let tell = configuration.tell
    self.tell = tell
    idle = Mutex(IdleState(timer: configuration.idleTimeout.map { IdleTimer(timeout: $0, at: .now) }))
    self.pipeline = RequestPipeline(handler: server, output: output, workers: Self.workers) { error in
      // A client that is gone is nothing to report; a disk that fails in the middle of an answer is.
      if let failure = error as? ServeError {
        tell("the connection ends because an answer cannot be completed: \(sentence(failure))")
      }
      cancellation.cancel()
      input.interrupt()
    }
  }

  /// Sends the client a record as soon as it is known to understand one.
  public func log(_ level: LogLevel, _ logger: Logger, _ message: String) {
    reporter.log(level, logger, message)
  }

  /// Ends the connection from another thread: requests that have arrived are completed, lock waits and
  /// checks are stopped.
  public func interrupt() {
    session.cancellation.cancel()
    input.interrupt()
    pipeline.interrupt()
  }

  /// The periodic work, called every half second or so from another thread.
  public func tick() {
    session.tick()
    endIfIdle()
    if output.isHungUp {
      interrupt()
    } else if pipeline.readerIsBlocked && input.isHungUp {
      // While the reader waits for room it cannot see that nothing more will come. What has come is still
      // answered, but nobody waits for a lock any more.
      session.cancellation.cancel()
    }
  }

  /// Whether nothing has happened for as long as is allowed.
  var isIdle: Bool { idle.withLock { $0.isOver } }

  private func endIfIdle() {
    let isNewlyOver = idle.withLock { idle in
      guard !idle.isOver, idle.timer != nil else { return false }
      let moved = input.bytesMoved &+ output.bytesMoved
      idle.isOver =
        idle.timer?.isOver(moved: moved, isWorking: pipeline.isWorking, at: .now) ?? false
      return idle.isOver
    }
    guard isNewlyOver else { return }
    tell("the connection ends because nothing has happened on it for as long as --idle-timeout allows")
    interrupt()
  }

  /// Serves until the connection ends. Blocking.
  ///
  /// When it returns the repository is closed: everything durable, its lock gone, nothing staged. `patience`
  /// is how long a client that was interrupted gets to read its last answers; `arrived` was read before.
  public func run(after arrived: [UInt8] = [], patience: Duration = .seconds(1)) -> ConnectionEnd {
    defer { reporter.end() }
    guard pipeline.start(workers: Self.workers) else { return .broken }
    var end = read(after: arrived)
    pipeline.endInput()
    do {
      try server.close()
    } catch .notLocked {
      // Somebody broke the lock: nothing is left to release.
    } catch {
      tell("closing the repository failed: \(sentence(error))")
      end = .broken
    }
    pipeline.drain(patience: patience)
    if isIdle { return .idle }
    return pipeline.outputIsBroken ? .broken : end
  }

  // MARK: Reading

  private func read(after arrived: [UInt8]) -> ConnectionEnd {
    var incoming = Incoming()
    incoming.replace(arrived)
    var calls: [RPCCall] = []
    defer { incoming.abandonValues() }
    do {
      while true {
        let step: Incoming.Step
        do {
          step = try incoming.next()
        } catch {
          // What stood before it was well-formed, and is answered.
          _ = submit(&calls)
          throw error
        }
        switch step {
        case .call(let call):
          calls.append(call)
          if calls.count == Self.callsAtOnce, !submit(&calls) { return .interrupted }
        case .large(let hole, let method):
          guard submit(&calls) else { return .interrupted }
          if let end = try receive(hole, method, &incoming) { return end }
        case .needs(let capacity):
          guard submit(&calls) else { return .interrupted }
          switch try input.read(behind: incoming.rest, capacity: capacity) {
          case .bytes(let block): incoming.replace(block)
          case .end: return hangup()
          case .interrupted: return .interrupted
          }
        }
      }
    } catch let fault as RPCFault {
      return .fault(fault)
    } catch {
      tell("reading from the client failed: \(error)")
      return .broken
    }
  }

  /// Hands over what arrived together; false once the connection was interrupted.
  private func submit(_ calls: inout [RPCCall]) -> Bool {
    guard !calls.isEmpty else { return true }
    reporter.begin { [pipeline] in pipeline.post($0) }
    defer { calls.removeAll(keepingCapacity: true) }
    let taken = pipeline.submit(calls)
    for call in calls[taken...] { call.abandonValues(all: true) }
    return taken == calls.count
  }

  /// The client has closed its end. One that waits for a lock, or for a check, is not there to see it, unless
  /// its requests came from a file.
  private func hangup() -> ConnectionEnd {
    if !input.isRegularFile { session.cancellation.cancel() }
    return .closed
  }

  /// Moves a large value out of the stream, to a staged file or to nowhere. Returns the connection's end if
  /// that comes first.
  private func receive(_ hole: RPCRequestParser.Hole, _ method: String?, _ incoming: inout Incoming)
    throws -> ConnectionEnd?
  {
    // Which repository the value belongs to is certain once every earlier `open` and `close` is done.
    guard pipeline.waitForExclusive() else { return .interrupted }
    let value = SpooledValue(upload(for: hole, method, incoming))
    let (block, arrived) = incoming.split(at: hole, value)
    value.append(block, arrived)
    var left = hole.length - arrived.count
    while left > 0 {
      // Never more than the value's own bytes, so that what follows stays in the stream.
      switch try input.read(behind: [], capacity: min(left, Limits.readBlock)) {
      case .bytes(let block):
        value.append(block, block.indices)
        left -= block.count
      case .end: return hangup()
      case .interrupted: return .interrupted
      }
    }
    return nil
  }

  private func upload(for hole: RPCRequestParser.Hole, _ method: String?, _ incoming: Incoming)
    -> Result<any Upload, ServeError>
  {
    guard hole.length <= server.valueLimit(of: method) else {
      return .failure(.integrity("value of \(hole.length) bytes"))
    }
    guard !incoming.hasValue else { return .failure(.argumentValue("more than one large value")) }
    return Result { () throws(ServeError) in try server.upload() }
  }
}

/// The bytes that have come in and are not yet requests, and the state of the one being put together.
private struct Incoming {
  private var block: [UInt8] = []
  private var start = 0
  private var holes: [RPCRequestParser.Hole] = []
  private var values: [SpooledValue] = []

  enum Step {
    case call(RPCCall)
    case large(RPCRequestParser.Hole, method: String?)
    case needs(capacity: Int)
  }

  /// What can be done with the bytes at hand.
  mutating func next() throws(RPCFault) -> Step {
    switch try RPCRequestParser.parse(block, from: start, holes: holes) {
    case .request(let request, let end):
      defer { (start, holes, values) = (end, [], []) }
      return .call(RPCCall(request: request, values: values))
    case .large(let hole, let method):
      return .large(hole, method: method)
    case .incomplete(let needed):
      return .needs(capacity: max(needed - start, Limits.readBlock))
    }
  }

  /// The bytes that belong to no request yet.
  var rest: ArraySlice<UInt8> { block[start...] }

  /// Goes on with a block that begins with `rest`.
  mutating func replace(_ block: [UInt8]) {
    holes = holes.map { .init(offset: $0.offset - start, length: $0.length) }
    (self.block, start) = (block, 0)
  }

  var hasValue: Bool { !values.isEmpty }

  /// Takes a large value's payload out; returns the old block and where the part that had arrived stands.
  mutating func split(at hole: RPCRequestParser.Hole, _ value: SpooledValue) -> ([UInt8], Range<Int>) {
    let old = block
    let arrived = hole.offset..<min(hole.offset + hole.length, old.count)
    block.removeSubrange(arrived)
    holes.append(hole)
    values.append(value)
    return (old, arrived)
  }

  func abandonValues() {
    for value in values { value.abandon(unlessTaken: false) }
  }
}

/// An error for the administrator, in the words that a client would get.
private func sentence(_ error: ServeError) -> String {
  WireError(error, client: nil, repository: "", available: nil).message
}
