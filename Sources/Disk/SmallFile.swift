import Glibc
public import SystemPackage

/// Reads a file from its beginning, up to its end or `limit` bytes; nil is standard input.
///
/// Takes pipes and terminals too, and waits for them. A file is closed again, standard input is not.
public func readWhole(_ path: [UInt8]?, limit: Int) throws(Errno) -> [UInt8] {
  guard let path else { return try readWhole(STDIN_FILENO, limit: limit) }
  // A NUL would end the path early.
  guard !path.contains(0) else { throw .invalidArgument }
  let name = terminated(path)
  let descriptor = try retrying { unsafe Glibc.open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY) }
  defer { _ = Glibc.close(descriptor) }
  return try readWhole(descriptor, limit: limit)
}

private func readWhole(_ descriptor: Int32, limit: Int) throws(Errno) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: limit)
  var filled = 0
  while filled < limit {
    let count = try retrying {
      unsafe bytes.withUnsafeMutableBytes { buffer in
        unsafe Glibc.read(descriptor, buffer.baseAddress.map { unsafe $0 + filled }, limit - filled)
      }
    }
    if count == 0 { break }
    filled += count
  }
  bytes.removeLast(limit - filled)
  return bytes
}
