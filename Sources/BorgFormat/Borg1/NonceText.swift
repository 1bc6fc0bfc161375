/// Why the file `nonce` is not one.
public enum NonceFault: Error, Equatable, Sendable {
  /// Not 16 hex digits, in the original's words.
  case invalid(String)
}

/// The file `nonce`: the first counter value that no client has reserved for encryption, as 16 hex digits.
///
/// Source: borg 1.4.5 `borg/repository.py`, `get_free_nonce`.
public enum NonceText {
  /// Reads the digits, of any case, with white space around them: 1.1 and 1.2 take none, 1.4 does.
  public static func parse(_ bytes: [UInt8]) throws(NonceFault) -> UInt64 {
    var text = bytes[...]
    while let last = text.last, isBlank(last) { text.removeLast() }
    while let first = text.first, isBlank(first) { text.removeFirst() }
    let digits = Array(text)
    if let fault = Hex.fault(in: digits, size: 8) { throw .invalid(fault) }
    guard let word = Hex.word(in: digits.span, letters: .anyCase) else { throw .invalid("not one number") }
    return word
  }

  /// The 16 lower-case digits, without an end of line.
  public static func encode(_ nonce: UInt64) -> [UInt8] {
    var text: [UInt8] = []
    Hex.append(nonce, to: &text)
    return text
  }

  private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0d).contains(byte) }
}
