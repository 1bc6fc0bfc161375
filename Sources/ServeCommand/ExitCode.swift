/// How the process ends: every exit code of the program, and nothing else decides one.
///
/// Source: borg 2.0.0b18 `archiver/__init__.py` `main`, `helpers/errors.py`; observed on the real server.
public enum ExitCode: Hashable, Sendable {
  /// End of input, help, version.
  case success
  /// Usage errors, malformed messages, a peer that does not read its answers, everything unforeseen.
  case failure
  /// A backend outside the granted paths, found before the first request was read (b22+ `--rest` only).
  case pathNotAllowed
  /// A well-formed message that is not a request.
  case unexpectedMessage
  /// Ended by this signal, without the process having died of it.
  case signal(Int32)

  /// The status for `exit`, 0...255.
  ///
  /// Without `modern` every specific error is a plain 2; success and signals are the same in both worlds.
  public func status(modern: Bool) -> Int32 {
    switch self {
    case .success: 0
    case .failure: 2
    case .pathNotAllowed: modern ? 83 : 2
    case .unexpectedMessage: modern ? 85 : 2
    case .signal(let number): 128 + (number & 0x7f)
    }
  }

  /// Whether this value of `BORG_EXIT_CODES` asks for specific codes.
  ///
  /// Only the word `modern`, spelt exactly so, does. Unset means that too for Borg 2, and the plain codes for clients of
  /// Borg 1.x (`legacyByDefault`), as it does for Borg 1.4.
  public static func isModern(environment value: [UInt8]?, legacyByDefault: Bool = false) -> Bool {
    guard let value else { return !legacyByDefault }
    return value.elementsEqual("modern".utf8)
  }
}
