/// Values of options and variables, read as the original's Python reads them.
enum OptionValues {
  /// Python's `int(text, radix)` for radix 8 and 10: white space around, a sign, `_` between two digits; in
  /// radix 8 also the prefix `0o`. Saturates where Python's integers would grow. ASCII digits only.
  static func integer(_ text: [UInt8], radix: Int = 10) -> Int? {
    var body = trimmed(text)
    let negative = body.first == UInt8(ascii: "-")
    if negative || body.first == UInt8(ascii: "+") { body.removeFirst() }
    if radix == 8, body.starts(with: "0o".utf8) || body.starts(with: "0O".utf8) {
      body.removeFirst(2)
      if body.first == UInt8(ascii: "_") { body.removeFirst() }
    }
    var value = 0
    var afterDigit = false
    for byte in body {
      if byte == UInt8(ascii: "_"), afterDigit {
        afterDigit = false
        continue
      }
      guard byte >= UInt8(ascii: "0"), byte < UInt8(ascii: "0") + UInt8(radix) else { return nil }
      let (scaled, overflowed) = value.multipliedReportingOverflow(by: radix)
      let (sum, carried) = scaled.addingReportingOverflow(Int(byte - UInt8(ascii: "0")))
      value = overflowed || carried ? .max : sum
      afterDigit = true
    }
    guard afterDigit else { return nil }
    return negative ? -value : value
  }

  /// An octal file mode mask; bits above 0777 are dropped, as `umask(2)` does.
  ///
  /// Negative numbers are refused (the original hands them to the system call, which makes 0777 of -1).
  static func umask(_ text: [UInt8]) -> UInt32? {
    guard let mask = integer(text, radix: 8), (0...Int(Int32.max)).contains(mask) else { return nil }
    return UInt32(mask & 0o777)
  }

  enum QuotaFailure: Error {
    case notASize
    case tooSmall
  }

  /// Bytes of a quota such as `5G`, `1.5T`, `10000000` or `0`.
  ///
  /// Suffixes K, M, G, T, P (upper case) are powers of 1000; fractions are allowed and cut off after
  /// scaling. 0 means no quota; anything else below 10M is `tooSmall`. What does not fit saturates. Source:
  /// borg 1.4 `helpers/parseformat.py` `parse_file_size`, `archiver.py` `parse_storage_quota`.
  static func storageQuota(_ text: [UInt8]) throws(QuotaFailure) -> UInt64 {
    let powers: [UInt8] = Array("KMGTP".utf8)
    var number = trimmed(text)
    var factor = 1.0
    if let suffix = text.last, let power = powers.firstIndex(of: suffix) {
      number = trimmed(Array(text.dropLast()))
      for _ in 0...power { factor *= 1000 }
    }
    // `Double` also reads hexadecimal and names, which are no sizes.
    guard number.allSatisfy({ "0123456789.eE+-".utf8.contains($0) }),
      let parsed = Double(String(decoding: number, as: UTF8.self))
    else { throw .notASize }
    let size = (parsed * factor).rounded(.towardZero)
    guard size == 0 || size >= 10_000_000 else { throw .tooSmall }
    return UInt64(exactly: size) ?? .max
  }

  private static func trimmed(_ text: [UInt8]) -> ArraySlice<UInt8> {
    let isSpace = { (byte: UInt8) in
      byte == 0x20 || (0x09...0x0d).contains(byte) || (0x1c...0x1f).contains(byte)
    }
    guard let first = text.firstIndex(where: { !isSpace($0) }),
      let last = text.lastIndex(where: { !isSpace($0) })
    else { return [] }
    return text[first...last]
  }
}
