import Disk
import Glibc

/// Tells when files have changed, by looking at them every second or so: a rename over one, as editors and certbot do, is
/// seen like a write.
struct WatchedFiles {
  private struct Mark: Equatable {
    let device: UInt
    let inode: UInt
    let size: Int
    let seconds: Int
    let nanoseconds: Int
  }

  private var marks: [String: Mark?] = [:]

  /// Those of the files that are not as they were at the last look; a file looked at for the first time has not changed.
  mutating func changes(of files: [String]) -> [String] {
    var changed: [String] = []
    for file in files {
      let mark = Self.mark(file)
      if let known = marks[file], known != mark { changed.append(file) }
      marks[file] = .some(mark)
    }
    return changed
  }

  private static func mark(_ file: String) -> Mark? {
    var status = stat()
    guard unsafe stat(file, &status) == 0 else { return nil }
    return Mark(
      device: UInt(status.st_dev), inode: UInt(status.st_ino), size: Int(status.st_size),
      seconds: status.st_mtim.tv_sec,
      nanoseconds: status.st_mtim.tv_nsec)
  }
}
