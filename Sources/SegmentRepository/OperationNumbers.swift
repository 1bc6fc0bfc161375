import Synchronization

/// Gives each operation of a connection whose progress is reported a number of its own, from 1.
///
/// A class because the repositories that a connection opens one after another share it.
public final class OperationNumbers: Sendable {
  private let last = Atomic(0)

  public init() {}

  func next() -> Int { last.add(1, ordering: .relaxed).newValue }
}
