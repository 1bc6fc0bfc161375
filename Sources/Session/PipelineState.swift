import BorgFormat
import Disk

/// The queues of a pipeline's monitor: one for each of its threads, so that a change wakes only those that have
/// something to do now. With one for all, small objects cost more for waking than for reading.
enum PipelineQueue {
  static let others = 0
  static let reader = 1
  static let sender = 2
  static func worker(_ number: Int) -> Int { 3 + number }
}

/// What the threads of a `RequestPipeline` share, and who of them is to be woken.
struct PipelineState<Request> {
  typealias Schedule = RequestSchedule<Request, Answer>

  /// What the reader may wait for.
  enum ReaderWait {
    /// `crowded`: the number of requests holds it up, not their bytes.
    case room(weight: Int, crowded: Bool)
    case noExclusive
  }

  var schedule: Schedule
  var answerBytes = 0
  var records: [[UInt8]] = []
  var recordBytes = 0
  var inputEnded = false
  var outputIsBroken = false
  var isInterrupted = false
  var senderEnded = false
  var threads: [WorkerThread] = []
  /// Workers that have requests, and those of them that wait for the client to take log records.
  var working = 0
  var waitingForClient = 0
  /// What the reader waits for, if it does.
  var readerWait: ReaderWait?
  var senderWaits = false
  /// By worker.
  var workerWaits: [Bool]
  /// Threads that wait for anything else.
  var otherWaits = 0

  init(workers: Int) {
    precondition(PipelineQueue.worker(workers) <= UInt64.bitWidth, "each queue needs a bit in `takeWoken`")
    schedule = RequestSchedule(workers: workers)
    workerWaits = [Bool](repeating: false, count: workers)
  }

  /// Whether every request that will ever come is finished.
  var isFinished: Bool { inputEnded && schedule.isIdle }

  /// Whether nothing is left to be sent, now and ever.
  var isSent: Bool { isFinished && schedule.inFlight == 0 }

  /// Whether one more request may be taken in. One that is larger than the bound has to be alone.
  func hasRoom(for weight: Int) -> Bool {
    schedule.inFlight < Limits.requestsInFlight
      && (schedule.requestBytes + weight <= Limits.requestBytesInFlight || schedule.isIdle)
  }

  /// Whether only fewer requests would help.
  var isCrowded: Bool { schedule.inFlight >= Limits.requestsInFlight }

  func isMet(_ wait: ReaderWait) -> Bool {
    switch wait {
    case .room(let weight, _): hasRoom(for: weight)
    case .noExclusive: schedule.exclusiveCount == 0
    }
  }

  /// Whether a worker may begin another request now.
  func hasWork(for worker: Int) -> Bool {
    guard let next = schedule.next(for: worker) else { return false }
    return answerBytes < Limits.requestBytesInFlight || next.number == schedule.head || inputEnded
  }

  /// The queues, as bits, of those who wait and now have something to do. Workers and the sender, who wait again
  /// only after a look of their own, are named once.
  mutating func takeWoken() -> UInt64 {
    var woken: UInt64 = otherWaits > 0 ? 1 << PipelineQueue.others : 0
    if let wait = readerWait, wakesReader(wait) { woken |= 1 << PipelineQueue.reader }
    if senderWaits, !records.isEmpty || schedule.hasAnswer || isSent {
      senderWaits = false
      woken |= 1 << PipelineQueue.sender
    }
    for worker in workerWaits.indices where workerWaits[worker] && (hasWork(for: worker) || isFinished) {
      workerWaits[worker] = false
      woken |= 1 << PipelineQueue.worker(worker)
    }
    return woken
  }

  /// Whether the reader is to go on: if the number of requests held it up, once there is room for many of them,
  /// so that it is not woken for each.
  private func wakesReader(_ wait: ReaderWait) -> Bool {
    if isInterrupted { return true }
    if case .room(_, crowded: true) = wait, schedule.inFlight > Limits.requestsInFlight / 2 { return false }
    return isMet(wait)
  }
}
