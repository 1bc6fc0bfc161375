import NIOCore
import Synchronization

/// Whether reads have been quick of late, so that an event loop may do one itself. A class because connections share it.
///
/// Reading 1 KiB that the system has in memory takes some 15 microseconds, two changes of threads as much again and, on an
/// idle machine, several times that. A read that has to wait for a disk holds up all connections of the loop: once.
final class Pace: Sendable {
  private let slowUntil = Atomic<UInt64>(0)

  /// What takes longer was no quick read.
  private static let limit: UInt64 = 4_000_000

  var isQuick: Bool { NIODeadline.now().uptimeNanoseconds >= slowUntil.load(ordering: .relaxed) }

  /// Takes note of one that has just been done: for twenty times as long as a slow one took, and a second at least, there is
  /// no other. So loops wait for disks for a twentieth of their time at most.
  func note(since began: NIODeadline) {
    let now = NIODeadline.now().uptimeNanoseconds
    let taken = now - began.uptimeNanoseconds
    guard taken > Self.limit else { return }
    slowUntil.store(now + max(20 * taken, 1_000_000_000), ordering: .relaxed)
  }
}
