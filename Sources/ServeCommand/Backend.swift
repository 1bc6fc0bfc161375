import BorgFormat

/// The directory that `--backend` names.
///
/// Source: borgstore 0.7.0 `backends/posixfs.py`, `get_file_backend`; borg 2.0.0b25 `archiver/serve_cmd.py`.
public struct Backend: Hashable, Sendable {
  /// Relative to the working directory unless it begins with a slash; empty is that directory itself.
  public let path: [UInt8]

  /// Why a value is not served, in one sentence.
  public struct Refused: Error, Hashable, Sendable {
    public let reason: String
  }

  /// Reads `FILE:PATH`, in which nothing is escaped and a leading `~` or `~user` is a home directory, or
  /// `file:///PATH`, which is percent-encoded.
  ///
  /// `home` is asked for the home directory of a user, or with nil for one's own; nil leaves the path as it stands.
  public init(parsing url: [UInt8], home: ([UInt8]?) -> [UInt8]?) throws(Refused) {
    if url.starts(with: "FILE:".utf8) {
      path = Self.expanded(Array(url.dropFirst(5)), home)
    } else if url.starts(with: "file:///".utf8) {
      path = try Self.decoded(url.dropFirst(7), of: url)
    } else {
      throw Refused(
        reason: "--backend \(printable(url)) is not supported: it has to be FILE:PATH or file:///PATH.")
    }
    guard !path.contains(0) else {
      throw Refused(reason: "--backend \(printable(url)) has a NUL byte in it.")
    }
  }

  /// Source: Python's `os.path.expanduser`.
  private static func expanded(_ path: [UInt8], _ home: ([UInt8]?) -> [UInt8]?) -> [UInt8] {
    guard path.first == UInt8(ascii: "~") else { return path }
    let user = Array(path.dropFirst().prefix { $0 != UInt8(ascii: "/") })
    guard var directory = home(user.isEmpty ? nil : user) else { return path }
    while directory.last == UInt8(ascii: "/") { directory.removeLast() }
    let expanded = directory + path.dropFirst(1 + user.count)
    return expanded.isEmpty ? [UInt8(ascii: "/")] : expanded
  }

  private static func decoded(_ text: ArraySlice<UInt8>, of url: [UInt8]) throws(Refused) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = text
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard rest.count >= 2, let high = Hex.value(of: rest[rest.startIndex], letters: .anyCase),
        let low = Hex.value(of: rest[rest.startIndex + 1], letters: .anyCase)
      else { throw Refused(reason: "--backend \(printable(url)) has a % that escapes nothing.") }
      bytes.append(high << 4 | low)
      rest = rest.dropFirst(2)
    }
    return bytes
  }
}
