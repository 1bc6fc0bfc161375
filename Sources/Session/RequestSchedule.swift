import DequeModule

/// Where a request runs in relation to the others of its session.
public enum Lane: Equatable, Sendable {
  /// Side by side with others; those with the same key in the order in which they came.
  case keyed(UInt64)
  /// Alone: after everything before it, and before everything behind it.
  case exclusive
}

/// The order of a session's requests: which may run now, and whose answer is to be sent next.
///
/// Decides, and does nothing: `RequestPipeline` holds the threads. A request's number is its place in the
/// order of arrival, from 0. Each worker has a queue of its own, chosen by the key, so that requests for one
/// object never overtake each other and no table of busy names is needed.
struct RequestSchedule<Request, Answer> {
  struct Job {
    let number: Int
    let lane: Lane
    let weight: Int
    let request: Request
  }

  private var waiting: Deque<Job> = []
  private var ready: [Deque<Job>]
  private var answers: Deque<Answer?> = []
  private var active = 0
  private var exclusiveIsActive = false

  /// The request whose answer is to be sent next.
  private(set) var head = 0
  /// Bytes of values in requests that are not finished.
  private(set) var requestBytes = 0
  /// Exclusive requests that are not finished.
  private(set) var exclusiveCount = 0

  init(workers: Int) {
    ready = Array(repeating: [], count: workers)
  }

  /// Requests whose answers were not taken yet.
  var inFlight: Int { answers.count }

  /// Whether every request that came is finished.
  var isIdle: Bool { active == 0 && waiting.isEmpty }

  mutating func submit(_ request: Request, lane: Lane, weight: Int) {
    waiting.append(Job(number: head + answers.count, lane: lane, weight: weight, request: request))
    answers.append(nil)
    requestBytes += weight
    if lane == .exclusive { exclusiveCount += 1 }
    dispatch()
  }

  private mutating func dispatch() {
    while let job = waiting.first, !exclusiveIsActive {
      switch job.lane {
      case .keyed(let key): ready[Int(key % UInt64(ready.count))].append(job)
      case .exclusive:
        guard active == 0 else { return }
        exclusiveIsActive = true
        ready[0].append(job)
      }
      active += 1
      waiting.removeFirst()
    }
  }

  /// The first job of a worker's queue, without taking it.
  func next(for worker: Int) -> Job? { ready[worker].first }

  mutating func take(for worker: Int) -> Job? { ready[worker].popFirst() }

  /// Puts jobs that a worker took and did not begin back to where they were.
  mutating func giveBack(_ jobs: ArraySlice<Job>, _ worker: Int) {
    ready[worker].prepend(contentsOf: jobs)
  }

  mutating func finish(_ job: Job, with answer: Answer) {
    answers[job.number - head] = answer
    active -= 1
    requestBytes -= job.weight
    if job.lane == .exclusive {
      exclusiveIsActive = false
      exclusiveCount -= 1
    }
    dispatch()
  }

  /// Whether the next answer in the order of requests is there.
  var hasAnswer: Bool {
    guard let first = answers.first else { return false }
    return first != nil
  }

  /// The next answer in the order of requests, if it is there.
  mutating func takeAnswer() -> Answer? {
    guard let first = answers.first, let answer = first else { return nil }
    answers.removeFirst()
    head += 1
    return answer
  }
}
