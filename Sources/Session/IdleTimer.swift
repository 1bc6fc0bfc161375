/// Decides when a connection on which nothing happens has lasted long enough.
///
/// Looked at from time to time, it compares instead of being told: what moves bytes only counts them.
public struct IdleTimer: Sendable {
  private let timeout: Duration
  private var moved: UInt64 = 0
  private var since: ContinuousClock.Instant

  /// Begins to count at `now`.
  public init(timeout: Duration, at now: ContinuousClock.Instant) {
    (self.timeout, since) = (timeout, now)
  }

  /// Whether no byte has moved, and no request was worked on at any look, for the whole time.
  public mutating func isOver(moved: UInt64, isWorking: Bool, at now: ContinuousClock.Instant) -> Bool {
    if isWorking || moved != self.moved { (self.moved, since) = (moved, now) }
    return now - since >= timeout
  }
}
