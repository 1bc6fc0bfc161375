import DequeModule
import Disk

/// Threads for calls that block. A class because many share it.
///
/// Not NIO's: that one ends by Dispatch, which reads about threads in `/proc` and traps where the kernel keeps it from that.
/// A job wakes one thread, the one that has rested for the shortest time.
final class WorkerPool: Sendable {
  typealias Job = @Sendable () -> Void

  private struct State {
    var jobs: Deque<Job> = []
    /// Threads without work, the latest last.
    var idle: [Int] = []
    var isEnding = false
    var threads: [WorkerThread] = []
  }

  private let state: Monitor<State>

  /// Starts its threads; there may be fewer, if the system gives no more.
  init(threads count: Int) {
    let state = Monitor(State(), queues: count)
    self.state = state
    let threads = (0..<count).compactMap { number in WorkerThread { Self.run(number, state) } }
    state.withLock { $0.threads = threads }
  }

  /// Has a job done soon, in order of submission as far as they begin. After the end it is done at once.
  func submit(_ job: @escaping Job) {
    let (isOver, worker) = state.withLock { state -> (Bool, Int?) in
      guard !state.isEnding else { return (true, nil) }
      state.jobs.append(job)
      return (false, state.idle.popLast())
    }
    if let worker { state.wake(worker) }
    if isOver { job() }
  }

  /// Waits until all jobs are done, and ends the threads. Blocking.
  func end() {
    let threads = state.update { state in
      state.isEnding = true
      defer { state.threads = [] }
      return state.threads
    }
    for thread in threads { thread.join() }
  }

  private static func run(_ number: Int, _ state: Monitor<State>) {
    while true {
      let job = state.wait(in: number) { state -> Job?? in
        if let job = state.jobs.popFirst() { return .some(job) }
        if state.isEnding { return .some(nil) }
        if !state.idle.contains(number) { state.idle.append(number) }
        return nil
      }
      guard let job else { return }
      job()
    }
  }
}
