import Disk
import SystemPackage

extension Directory {
  /// Replaces the content of a file in one step, durably: by a temporary file beside it, which is gone afterwards in any
  /// case. `isReplaced` tells, when this throws, whether programs see the new content nevertheless.
  ///
  /// Source of the names and of what is synced: borg 1.4.5 `src/borg/platform/base.py`, `SaveFile`.
  func replace(_ name: String, with bytes: [UInt8], isReplaced: inout Bool) throws(Errno) {
    let temporary = "\(name)-\(randomName()).tmp"
    isReplaced = false
    let file = try file(temporary, .createByMask)
    do {
      try file.write(bytes, bytes.indices, at: 0)
      try file.syncData()
      try rename(temporary, to: name, in: self)
    } catch {
      _ = try? remove(temporary)
      throw error
    }
    isReplaced = true
    try sync()
  }

  /// The whole of a file of at most `limit` bytes, or one byte more of a larger one; nil if there is none.
  func content(_ name: String, limit: Int) throws(Errno) -> [UInt8]? {
    let file: OpenFile
    do {
      file = try self.file(name)
    } catch .noSuchFileOrDirectory {
      return nil
    }
    return try file.read(at: 0, count: min(try file.size(), limit + 1))
  }
}

extension Errno {
  /// What Python calls a PermissionError.
  var isDenial: Bool { self == .permissionDenied || self == .notPermitted }
}
