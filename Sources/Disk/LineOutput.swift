import Glibc
import Synchronization

/// Lines to a descriptor whose reader may be slow, or may have stopped reading: the log of a session.
///
/// A slow reader is waited for, so that no line of a check is lost. One that has taken nothing for `patience` loses lines
/// until it reads again, and is told how many: a server must not stand still, with its locks, for its log. A class
/// because several threads write.
public final class LineOutput: Sendable {
  private let descriptor: Int32
  private let patience: Duration
  private let waits = Atomic(true)
  /// Lines that were lost since the reader last took one. Held while a line waits, unlike other state: lines of several
  /// threads must not mix, and each would wait for the same reader.
  private let lost = Mutex(0)

  /// Uses an open descriptor, which stays the caller's.
  public init(_ descriptor: Int32, patience: Duration = .seconds(30)) {
    (self.descriptor, self.patience) = (descriptor, patience)
  }

  /// From now on lines for which there is no room are lost at once: their reader waits for this process to end.
  public func stopWaiting() { waits.store(false, ordering: .relaxed) }

  /// Writes a line and its end, or loses it; failures have nowhere to be told.
  public func write(_ line: String) {
    lost.withLock { lost in
      if lost > 0 {
        guard
          write(
            Array("borg-serve: \(lost) lines of the log were lost, as nobody read them\n".utf8),
            patience: .zero)
        else {
          lost += 1
          return
        }
        lost = 0
      }
      if !write(Array((line + "\n").utf8), patience: patience) { lost += 1 }
    }
  }

  /// Writes in pieces for which a pipe that takes anything has room; false if nothing was taken.
  private func write(_ bytes: [UInt8], patience: Duration) -> Bool {
    var done = 0
    while done < bytes.count {
      guard hasRoom(patience) else { return false }
      let end = min(bytes.count, done + Int(PIPE_BUF))
      let written = unsafe bytes.withUnsafeBytes { buffer in
        unsafe Glibc.write(descriptor, buffer.baseAddress.map { unsafe $0 + done }, end - done)
      }
      if written >= 0 {
        done += written
      } else if errno != EINTR, errno != EAGAIN {
        return true
      }
    }
    return true
  }

  private func hasRoom(_ patience: Duration) -> Bool {
    let limit = ContinuousClock.now + patience
    while true {
      let left = waits.load(ordering: .relaxed) ? max(limit - .now, .zero) : .zero
      var room = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
      // In steps, to notice that waiting has come to its end.
      if unsafe poll(&room, 1, Int32(min(left / .milliseconds(1), 200).rounded(.up))) > 0 { return true }
      if left == .zero { return false }
    }
  }
}
