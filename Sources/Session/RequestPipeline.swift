import BorgFormat
public import Disk
public import Storage
import SystemPackage

/// What goes back to the client for one request.
public enum Answer: Sendable {
  case bytes([UInt8])
  /// These bytes, then the first `count` of the object.
  case stream(head: [UInt8], object: any StoredObject, count: Int)

  /// Bytes that the answer keeps in memory; an open file counts as some, too, so that few wait for their turn.
  var weight: Int {
    switch self {
    case .bytes(let bytes): bytes.count
    case .stream(let head, _, _): head.count + Limits.openAnswer
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
  private let state: Monitor<PipelineState<Handler.Request>>

  private typealias State = PipelineState<Handler.Request>
  private typealias Queue = PipelineQueue

  /// Requests that a worker takes at a time: one lock and one wake-up for all of them.
  private static var batch: Int { 64 }

  /// Bytes of answers, and time, after which a worker hands over what it has done.
  private static var batchBytes: Int { 512 * 1024 }
  private static var batchTime: Duration { .milliseconds(5) }

  /// `workers`: one to a few for disks, more for remote stores.
  public init(
    handler: Handler, output: ByteOutput, workers: Int, outputBroke: @escaping @Sendable (any Error) -> Void
  ) {
    self.handler = handler
    self.output = output
    self.outputBroke = outputBroke
    state = Monitor(PipelineState(workers: workers), queues: Queue.worker(workers))
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

  // MARK: Waking

  /// Changes the state, then wakes those threads that it gives something to do.
  private func change<Result>(_ body: (inout State) -> Result) -> Result {
    let (result, woken) = state.withLock { state in
      let result = body(&state)
      return (result, state.takeWoken())
    }
    wake(woken)
    return result
  }

  /// Wakes the queues whose bits are set.
  private func wake(_ queues: UInt64) {
    var rest = queues
    while rest != 0 {
      state.wake(rest.trailingZeroBitCount)
      rest &= rest - 1
    }
  }

  /// Waits for something that no queue of its own is there for.
  private func waitAsOther(until condition: (inout PipelineState<Handler.Request>) -> Bool) {
    var waits = false
    state.wait(in: Queue.others) { state in
      let isMet = condition(&state)
      if isMet == waits { state.otherWaits += isMet ? -1 : 1 }
      waits = !isMet
      return isMet ? () : nil
    }
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
      let weight = jobs[taken].weight
      guard waitAsReader(for: { .room(weight: weight, crowded: $0.isCrowded) }) else { break }
      change { state in
        repeat {
          let job = jobs[taken]
          state.schedule.submit(job.request, lane: job.lane, weight: job.weight)
          taken += 1
        } while taken < jobs.count && state.hasRoom(for: jobs[taken].weight)
      }
    }
    return taken
  }

  /// Blocks until no exclusive request is left: from then on it is certain which repository is open. False
  /// once the pipeline was interrupted.
  public func waitForExclusive() -> Bool { waitAsReader(for: { _ in .noExclusive }) }

  /// `wait` is asked each time that the reader goes on waiting: what holds it up may change.
  private func waitAsReader(for wait: (State) -> State.ReaderWait) -> Bool {
    state.wait(in: Queue.reader) { state in
      let wait = wait(state)
      let isMet = state.isMet(wait)
      state.readerWait = isMet || state.isInterrupted ? nil : wait
      return isMet ? true : state.isInterrupted ? false : nil
    }
  }

  /// Wakes the reader if it waits for room, and lets nothing in for which there is none. Whoever waits for answers
  /// to be sent waits no longer than its patience from now on.
  public func interrupt() {
    change { $0.isInterrupted = true }
  }

  /// Whether the reader waits for room and so cannot notice that the client is gone.
  public var readerIsBlocked: Bool { state.withLock { $0.readerWait != nil } }

  /// Says that no request comes any more, and waits until all that came are finished. Their answers may
  /// still be on their way.
  public func endInput() {
    change { $0.inputEnded = true }
    waitAsOther { $0.schedule.isIdle }
  }

  /// Whether a request is being worked on. One that waits for the client to take what is its is not.
  public var isWorking: Bool { state.withLock { $0.working > $0.waitingForClient } }

  /// Waits until every answer is sent; once the pipeline is interrupted, for as long as `patience` lasts. Then it
  /// hangs up, and waits for all threads to end; where the output cannot do that it leaves the sending one behind.
  public func drain(patience: Duration) {
    waitAsOther { $0.senderEnded || $0.isInterrupted }
    // This too waits among the others, whom a change only wakes if it knows of them.
    state.withLock { $0.otherWaits += 1 }
    let isSent: Void? = state.wait(timeout: patience) { $0.senderEnded ? () : nil }
    state.withLock { $0.otherWaits -= 1 }
    guard isSent != nil || output.hangUp() else { return }
    for thread in state.withLock({ $0.threads }) { thread.join() }
  }

  // MARK: Out of order

  /// Sends a message that answers nothing, such as a log record, before any answer that is still to come.
  /// Blocks while the client is too slow for them.
  public func post(_ message: [UInt8]) {
    var isWaiting = false
    waitAsOther { state in
      let hasRoom =
        state.recordBytes < Limits.requestBytesInFlight || state.outputIsBroken || state.inputEnded
      if isWaiting == hasRoom { state.waitingForClient += hasRoom ? -1 : 1 }
      isWaiting = !hasRoom
      return hasRoom
    }
    change { state in
      guard !state.outputIsBroken else { return }
      state.records.append(message)
      state.recordBytes += message.count
    }
  }

  // MARK: The workers' side

  private func work(_ worker: Int) {
    var done: [(job: State.Schedule.Job, answer: Answer)] = []
    while true {
      let jobs: [State.Schedule.Job] = state.wait(in: Queue.worker(worker)) { state in
        var jobs: [State.Schedule.Job] = []
        while jobs.count < Self.batch, state.hasWork(for: worker), let job = state.schedule.take(for: worker)
        {
          jobs.append(job)
        }
        state.workerWaits[worker] = jobs.isEmpty && !state.isFinished
        if !jobs.isEmpty { state.working += 1 }
        return state.workerWaits[worker] ? nil : jobs
      }
      guard !jobs.isEmpty else { return }
      var bytes = 0
      let began = ContinuousClock.now
      for job in jobs {
        // What is done goes to the client while a slow disk is busy with the rest.
        guard done.isEmpty || bytes < Self.batchBytes && ContinuousClock.now - began < Self.batchTime else {
          break
        }
        let answer = handler.answer(job.request)
        bytes += answer.weight
        done.append((job, answer))
      }
      change { state in
        state.working -= 1
        for (job, answer) in done { state.schedule.finish(job, with: answer) }
        state.answerBytes += bytes
        state.schedule.giveBack(jobs[done.count...], worker)
      }
      done.removeAll(keepingCapacity: true)
    }
  }

  // MARK: The sender's side

  private struct Parcel {
    var bytes: [UInt8] = []
    var stream: (object: any StoredObject, count: Int)?

    mutating func append(_ more: [UInt8]) {
      if bytes.isEmpty { bytes = more } else { bytes += more }
    }
  }

  /// Bytes that are sent with one call.
  private static var parcelSize: Int { 128 * 1024 }

  private func send() {
    // For objects that cannot be sent straight from their files; filled in when it is first needed.
    var buffer: [UInt8] = []
    while let parcel = nextParcel() {
      do {
        try output.write(parcel.bytes, count: parcel.bytes.count)
        if let (object, count) = parcel.stream { try stream(object, count, &buffer) }
      } catch {
        breakOutput(error)
      }
    }
    change { $0.senderEnded = true }
  }

  /// Waits for something to send; nil when nothing more will come.
  private func nextParcel() -> Parcel? {
    let (records, answers, isBroken, woken) = state.wait(in: Queue.sender) { state in
      let records = state.records
      (state.records, state.recordBytes) = ([], 0)
      var answers: [Answer] = []
      var weight = 0
      while weight < Self.parcelSize, let answer = state.schedule.takeAnswer() {
        weight += answer.weight
        answers.append(answer)
        if case .stream = answer { break }
      }
      state.answerBytes -= weight
      state.senderWaits = records.isEmpty && answers.isEmpty && !state.isSent
      return state.senderWaits ? nil : (records, answers, state.outputIsBroken, state.takeWoken())
    }
    // Taking answers made room.
    wake(woken)
    guard !records.isEmpty || !answers.isEmpty else { return nil }
    var parcel = Parcel()
    guard !isBroken else { return parcel }
    for record in records { parcel.append(record) }
    for answer in answers {
      switch answer {
      case .bytes(let bytes): parcel.append(bytes)
      case .stream(let head, let object, let count):
        parcel.append(head)
        parcel.stream = (object, count)
      }
    }
    return parcel
  }

  /// Sends an object's bytes. If they cannot be read to the end, the connection has to end: the answer's
  /// head has promised them, and a client waits for no others.
  private func stream(_ object: any StoredObject, _ count: Int, _ buffer: inout [UInt8]) throws {
    var offset = 0
    while offset < count, let sent = try object.send(at: offset, count: count - offset, to: output) {
      guard sent > 0 else { throw ServeError.integrity("object ended early") }
      offset += sent
    }
    if offset < count, buffer.isEmpty { buffer = [UInt8](repeating: 0, count: Limits.readBlock) }
    while offset < count {
      let length = min(try object.read(at: offset, into: &buffer), count - offset)
      guard length > 0 else { throw ServeError.integrity("object ended early") }
      try output.write(buffer, count: length)
      offset += length
    }
  }

  private func breakOutput(_ error: any Error) {
    let isNew = change { state in
      defer { state.outputIsBroken = true }
      return !state.outputIsBroken
    }
    if isNew { outputBroke(error) }
  }

  /// Whether the client could not be reached at some point.
  public var outputIsBroken: Bool { state.withLock { $0.outputIsBroken } }
}
