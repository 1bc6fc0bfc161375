/// Hexadecimal text, as object names, hash names and `config/id` carry it: two digits for a byte, high
/// half first.
public enum Hex {
  /// Which letters a parser takes for the digits above nine.
  public enum Letters: Sendable {
    /// `a`–`f` only: what Borg writes, and what its store admits in a name.
    case lowerCase
    /// `A`–`F` as well, for what a person typed.
    case anyCase
  }

  /// Appends two lower-case digits for each byte.
  public static func append(_ bytes: Span<UInt8>, to text: inout [UInt8]) {
    for index in bytes.indices { append(bytes[index], to: &text) }
  }

  /// Appends the two lower-case digits of a byte.
  public static func append(_ byte: UInt8, to text: inout [UInt8]) {
    text.append(digit(byte &>> 4))
    text.append(digit(byte))
  }

  /// Appends the 16 lower-case digits of a word, most significant first.
  public static func append(_ word: UInt64, to text: inout [UInt8]) {
    var shift: UInt64 = 64
    while shift > 0 {
      shift -= 4
      text.append(digit(UInt8(truncatingIfNeeded: word &>> shift)))
    }
  }

  /// The lower-case digits of some bytes, as ASCII.
  public static func encode(_ bytes: Span<UInt8>) -> [UInt8] {
    var text: [UInt8] = []
    text.reserveCapacity(bytes.count * 2)
    append(bytes, to: &text)
    return text
  }

  /// The lower-case digits of some bytes.
  public static func string(_ bytes: Span<UInt8>) -> String {
    String(decoding: encode(bytes), as: UTF8.self)
  }

  /// The lower-case digits of an array.
  public static func string(_ bytes: [UInt8]) -> String {
    string(bytes.span)
  }

  /// The bytes that ASCII digits stand for; `nil` for an odd number of digits or anything that is not a
  /// digit.
  ///
  /// No blank, sign or prefix is skipped; no digits are no bytes.
  public static func decode(_ text: Span<UInt8>, letters: Letters = .lowerCase) -> [UInt8]? {
    guard text.count.isMultiple(of: 2) else { return nil }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.count / 2)
    var index = 0
    while index < text.count {
      guard let high = value(of: text[index], letters: letters),
        let low = value(of: text[index + 1], letters: letters)
      else { return nil }
      bytes.append(high &<< 4 | low)
      index += 2
    }
    return bytes
  }

  /// The bytes that the digits of a string stand for; see the overload for spans.
  public static func decode(_ text: String, letters: Letters = .lowerCase) -> [UInt8]? {
    decode(text.utf8.span, letters: letters)
  }

  /// The word whose 16 digits start at `offset`; `nil` where there are fewer, or anything that is not a
  /// digit.
  public static func word(
    in text: Span<UInt8>, at offset: Int = 0, letters: Letters = .lowerCase
  ) -> UInt64? {
    guard offset >= 0, text.count >= 16, offset <= text.count - 16 else { return nil }
    var word: UInt64 = 0
    for index in offset..<(offset + 16) {
      guard let value = value(of: text[index], letters: letters) else { return nil }
      word = word &<< 4 | UInt64(value)
    }
    return word
  }

  /// The value of one ASCII digit, 0 to 15; `nil` for any other byte.
  public static func value(of digit: UInt8, letters: Letters = .lowerCase) -> UInt8? {
    switch (digit, letters) {
    case (0x30...0x39, _): digit &- 0x30
    case (0x61...0x66, _): digit &- 0x57
    case (0x41...0x46, .anyCase): digit &- 0x37
    default: nil
    }
  }

  /// The digit for the low half of a byte.
  private static func digit(_ value: UInt8) -> UInt8 {
    let nibble = value & 0x0F
    return nibble &+ (nibble < 10 ? 0x30 : 0x57)
  }
}
