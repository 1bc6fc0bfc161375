/// Text made safe for the two readers of a forced command: sshd, which takes it out of `authorized_keys`, and
/// the shell, which sshd hands it to.
///
/// Nothing is escaped that the reader would not undo. What a reader cannot be given at all (NUL, line ends) is
/// for the caller to refuse.
enum ShellQuoting {
  /// One word for a POSIX shell, between single quotes, in which nothing has a meaning but the closing one.
  ///
  /// A single quote becomes `'\''`. Source: POSIX.1-2024, Shell Command Language, 2.2.
  static func quoted(_ word: some Collection<UInt8>) -> [UInt8] {
    var text: [UInt8] = [UInt8(ascii: "'")]
    for byte in word {
      text += byte == UInt8(ascii: "'") ? Array(#"'\''"#.utf8) : [byte]
    }
    return text + [UInt8(ascii: "'")]
  }

  /// As `quoted`, but a word of letters, digits and `/._-+,:@%` only is left as it is.
  static func quotedIfNeeded(_ word: [UInt8]) -> [UInt8] {
    let isPlain = !word.isEmpty && word.allSatisfy(isPlainByte)
    return isPlain ? word : quoted(word)
  }

  private static func isPlainByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: "/._-+,:@%".utf8.contains(byte)
    }
  }

  /// The value of an option in `authorized_keys`, between double quotes; nil if there it has no spelling.
  ///
  /// sshd knows one escape, `\"`, and takes every other backslash as it stands: so a value that ends with a
  /// backslash, which would escape the closing quote, cannot be written. Source: OpenSSH 9.2 `misc.c`
  /// `opt_dequote`, and `authfile.c` `sshkey_advance_past_options`, which agree.
  static func authorizedKeysValue(_ value: [UInt8]) -> [UInt8]? {
    guard value.last != UInt8(ascii: "\\") else { return nil }
    var text: [UInt8] = [UInt8(ascii: "\"")]
    for byte in value {
      if byte == UInt8(ascii: "\"") { text.append(UInt8(ascii: "\\")) }
      text.append(byte)
    }
    return text + [UInt8(ascii: "\"")]
  }
}
