import BorgFormat
import Disk

/// How long somebody waits for a lock, and how often it looks.
///
/// Source: borg 1.4.5 `src/borg/locking.py`, `TimeoutTimer`.
struct LockWait {
  private let deadline: ContinuousClock.Instant?
  /// A tenth of the time, at most a minute; a second for those who wait for ever.
  let interval: Duration
  /// Nil: waits whatever happens.
  private let cancellation: Cancellation?

  /// Nil: for ever; zero: one attempt.
  init(_ duration: Duration?, _ cancellation: Cancellation?) {
    deadline = duration.map { ContinuousClock.now + $0 }
    interval = duration.map { min(.seconds(60), max($0 / 10, .milliseconds(1))) } ?? .seconds(1)
    self.cancellation = cancellation
  }

  /// Sleeps until it is time for another attempt; false if there is to be none. Throws `cancelled`.
  func pause(_ interval: Duration) throws(ServeError) -> Bool {
    let left = deadline.map { $0 - ContinuousClock.now } ?? interval
    guard left > .zero else { return false }
    guard let cancellation else {
      Host.pause(min(left, interval))
      return true
    }
    if cancellation.sleep(min(left, interval)) { throw .cancelled }
    return true
  }
}
