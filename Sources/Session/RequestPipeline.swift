import BorgFormat
public import Disk
public import Storage
import SystemPackage

/// What goes back to the client for one request.
public enum Answer: Sendable {
  case bytes([UInt8])
  /// These bytes, then the first `count` of the object.
  case stream(head: [UInt8], object: any StoredObject, count: Int)

  /// Bytes that the answer keeps in memory.
  var weight: Int {
    switch self {
    case .bytes(let bytes): bytes.count
    case .stream(let head, _, _): head.count
    }
  }
}

/// A dialect's way of answering requests.
public protocol RequestHandler: Sendable {
  associatedtype Request: Sendable

  func lane(of request: Request) -> Lane

  /// Bytes of values that the request keeps in memory.
  func weight(of request: Request) -> Int

  /// Does the work. Blocking; called on worker threads, in the order that the lanes demand.
  func answer(_ request: Request) -> Answer
}

/// Takes a session's requests in, has them answered by workers, and sends the answers in order.
///
/// Bounded in requests, in bytes taken in and in bytes to be sent: `submit` blocks the reader, and workers
/// pause, until the client has taken what is its. The request whose answer is next in order is always
/// worked on, so that the bounds cannot lock each other out.
public final class RequestPipeline<Handler: RequestHandler>: Sendable {
  private let handler: Handler
  private let output: ByteOutput
  /// Called once, from the sending thread, when the client cannot be reached, or what it was promised cannot
  /// be read.
  private let outputBroke: @Sendable (any Error) -> Void
  private let state: Monitor<State>

  private struct State {
    var schedule: RequestSchedule<Handler.Request, Answer>
    var answerBytes = 0
    var records: [[UInt8]] = []
    var recordBytes = 0
    var inputEnded = false
    var outputIsBroken = false
    var readerIsBlocked = false
    var isInterrupted = false
    var senderEnded = false
    /// Workers that have requests, and those of them that wait for the client to take log records.
    var working = 0
    var waitingForClient = 0
    var threads: [WorkerThread] = []
  }

  /// Requests that a worker takes at a time: one lock and one wake-up for all of them.
  private static var batch: Int { 16 }

  /// `workers`: one to a few for disks, more for remote stores.
  public init(
    handler: Handler, output: ByteOutput, workers: Int, outputBroke: @escaping @Sendable (any Error) -> Void
  ) {
    self.handler = handler
    self.output = output
    self.outputBroke = outputBroke
    state = Monitor(State(schedule: RequestSchedule(workers: workers)))
  }

  /// Starts the threads. False if the system has none to give.
  public func start(workers: Int) -> Bool {
    var bodies: [@Sendable () -> Void] = (0..<workers).map { worker in { [self] in work(worker) } }
    bodies.append { [self] in send() }
    for body in bodies {
      guard let thread = WorkerThread(body) else {
        endInput()
        for thread in state.withLock({ $0.threads }) { thread.join() }
        return false
      }
      state.withLock { $0.threads.append(thread) }
    }
    return true
  }

  // MARK: The reader's side

  /// Takes requests in, in their order; blocks while too much is in flight. Returns how many it took: fewer
  /// than there are only once the pipeline was interrupted.
  ///
  /// All that arrived together is best submitted together: one lock and one wake-up for all of them.
  public func submit(_ requests: [Handler.Request]) -> Int {
    let jobs = requests.map { (request: $0, lane: handler.lane(of: $0), weight: handler.weight(of: $0)) }
    var taken = 0
    while taken < jobs.count {
      guard waitAsReader(until: { Self.hasRoom($0.schedule, for: jobs[taken].weight) }) else { break }
      state.update { state in
        repeat {
          let job = jobs[taken]
          state.schedule.submit(job.request, lane: job.lane, weight: job.weight)
          taken += 1
        } while taken < jobs.count && Self.hasRoom(state.schedule, for: jobs[taken].weight)
      }
    }
    return taken
  }

  private static func hasRoom(_ schedule: RequestSchedule<Handler.Request, Answer>, for weight: Int) -> Bool {
    schedule.inFlight < Limits.requestsInFlight
      && (schedule.requestBytes + weight <= Limits.requestBytesInFlight || schedule.isIdle)
  }

  /// Blocks until no exclusive request is left: from then on it is certain which repository is open. False
  /// once the pipeline was interrupted.
  public func waitForExclusive() -> Bool {
    waitAsReader { $0.schedule.exclusiveCount == 0 }
  }

  private func waitAsReader(until condition: (State) -> Bool) -> Bool {
    state.wait { state in
      let isMet = condition(state)
      state.readerIsBlocked = !isMet && !state.isInterrupted
      return isMet ? true : state.isInterrupted ? false : nil
    }
  }

  /// Wakes the reader if it waits for room, and lets nothing in for which there is none. Whoever waits for answers to be sent waits no longer than
  /// its patience from now on.
  public func interrupt() {
    state.update { $0.isInterrupted = true }
  }

  /// Whether the reader waits for room and so cannot notice that the client is gone.
  public var readerIsBlocked: Bool { state.withLock { $0.readerIsBlocked } }

  /// Says that no request comes any more, and waits until all that came are finished. Their answers may
  /// still be on their way.
  public func endInput() {
    state.update { $0.inputEnded = true }
    state.wait { $0.schedule.isIdle ? () : nil }
  }

  /// Whether a request is being worked on. One that waits for the client to take what is its is not.
  public var isWorking: Bool { state.withLock { $0.working > $0.waitingForClient } }

  /// Waits until every answer is sent; once the pipeline is interrupted, for as long as `patience` lasts. Then it hangs
  /// up, and waits for all threads to end; where the output cannot do that it leaves the sending one behind.
  public func drain(patience: Duration) {
    state.wait { $0.senderEnded || $0.isInterrupted ? () : nil }
    let isSent = state.wait(timeout: patience) { $0.senderEnded ? () : nil } != nil
    guard isSent || output.hangUp() else { return }
    for thread in state.withLock({ $0.threads }) { thread.join() }
  }

  // MARK: Out of order

  /// Sends a message that answers nothing, such as a log record, before any answer that is still to come.
  /// Blocks while the client is too slow for them.
  public func post(_ message: [UInt8]) {
    var isWaiting = false
    state.wait { state -> Void? in
      let hasRoom =
        state.recordBytes < Limits.requestBytesInFlight || state.outputIsBroken || state.inputEnded
      if isWaiting == hasRoom { state.waitingForClient += hasRoom ? -1 : 1 }
      isWaiting = !hasRoom
      return hasRoom ? () : nil
    }
    state.update { state in
      guard !state.outputIsBroken else { return }
      state.records.append(message)
      state.recordBytes += message.count
    }
  }

  // MARK: The workers' side

  private func work(_ worker: Int) {
    while true {
      let jobs: [RequestSchedule<Handler.Request, Answer>.Job] = state.wait { state in
        var jobs: [RequestSchedule<Handler.Request, Answer>.Job] = []
        while jobs.count < Self.batch, let next = state.schedule.next(for: worker),
          state.answerBytes < Limits.requestBytesInFlight || next.number == state.schedule.head
            || state.inputEnded
        {
          guard let job = state.schedule.take(for: worker) else { break }
          jobs.append(job)
        }
        if !jobs.isEmpty {
          state.working += 1
          return jobs
        }
        return state.inputEnded && state.schedule.isIdle ? [] : nil
      }
      guard !jobs.isEmpty else { return }
      let answers = jobs.map { handler.answer($0.request) }
      state.update { state in
        state.working -= 1
        for (job, answer) in zip(jobs, answers) {
          state.schedule.finish(job, with: answer)
          state.answerBytes += answer.weight
        }
      }
    }
  }

  // MARK: The sender's side

  private struct Parcel {
    var bytes: [UInt8] = []
    var stream: (object: any StoredObject, count: Int)?
  }

  /// Bytes that are sent with one call.
  private static var parcelSize: Int { 128 * 1024 }

  private func send() {
    // Filled in when it is first needed: most connections of a quiet server stream nothing.
    var buffer: [UInt8] = []
    while let parcel = nextParcel() {
      do {
        try output.write(parcel.bytes, count: parcel.bytes.count)
        if let (object, count) = parcel.stream { try stream(object, count, &buffer) }
      } catch {
        breakOutput(error)
      }
    }
    state.update { $0.senderEnded = true }
  }

  /// Waits for something to send; nil when nothing more will come.
  private func nextParcel() -> Parcel? {
    let parcel: Parcel? = state.wait { state -> Parcel?? in
      var parcel = Parcel()
      for record in state.records { parcel.bytes += record }
      (state.records, state.recordBytes) = ([], 0)
      while parcel.bytes.count < Self.parcelSize, parcel.stream == nil,
        let answer = state.schedule.takeAnswer()
      {
        state.answerBytes -= answer.weight
        switch answer {
        case .bytes(let bytes): parcel.bytes += bytes
        case .stream(let head, let object, let count):
          parcel.bytes += head
          parcel.stream = (object, count)
        }
      }
      if !parcel.bytes.isEmpty { return parcel }
      return state.inputEnded && state.schedule.isIdle && state.schedule.inFlight == 0 ? .some(nil) : nil
    }
    // Taking answers made room.
    state.update { _ in }
    guard let parcel else { return nil }
    return state.withLock { $0.outputIsBroken } ? Parcel() : parcel
  }

  /// Sends an object's bytes. If they cannot be read to the end, the connection has to end: the answer's
  /// head has promised them, and a client waits for no others.
  private func stream(_ object: any StoredObject, _ count: Int, _ buffer: inout [UInt8]) throws {
    var offset = 0
    if buffer.isEmpty { buffer = [UInt8](repeating: 0, count: Limits.readBlock) }
    while offset < count {
      let length = min(try object.read(at: offset, into: &buffer), count - offset)
      guard length > 0 else { throw ServeError.integrity("object ended early") }
      try output.write(buffer, count: length)
      offset += length
    }
  }

  private func breakOutput(_ error: any Error) {
    let isNew = state.update { state in
      defer { state.outputIsBroken = true }
      return !state.outputIsBroken
    }
    if isNew { outputBroke(error) }
  }

  /// Whether the client could not be reached at some point.
  public var outputIsBroken: Bool { state.withLock { $0.outputIsBroken } }
}
