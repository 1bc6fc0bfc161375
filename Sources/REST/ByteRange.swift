import BorgFormat

/// What the field `Range` of a request asks for.
///
/// Source of what is understood: borgstore 0.7.0 `backends/_utils.py`, `parse_range_header`. What is not understood (other
/// units, several ranges) asks for nothing, and the whole object is answered with 200.
enum ByteRange: Equatable {
  case from(Int)
  /// The last one is included.
  case between(Int, Int)
  /// So many bytes at the end; 0 means all, as clients of the original take it.
  case last(Int)

  /// Nil if it is not understood. Throws for a range that ends before the byte in front of it.
  init?(_ field: String) throws(Refusal) {
    let unit = "bytes="
    guard field.hasPrefix(unit) else { return nil }
    let text = Array(field.utf8.dropFirst(unit.utf8.count))
    let parts = text.split(separator: UInt8(ascii: "-"), maxSplits: 2, omittingEmptySubsequences: false)
      .map { Self.trimmed($0) }
    guard parts.count == 2 else { return nil }
    switch (parts[0].isEmpty, parts[1].isEmpty) {
    case (true, true): return nil
    case (true, false):
      guard let count = Self.number(parts[1]) else { return nil }
      self = .last(count)
    case (false, true):
      guard let first = Self.number(parts[0]) else { return nil }
      self = .from(first)
    case (false, false):
      guard let first = Self.number(parts[0]), let last = Self.number(parts[1]) else { return nil }
      // Of no bytes at all is what a client computes for a size of 0.
      guard first == 0 || last >= first - 1 else { throw Refusal(400, "invalid range") }
      self = .between(first, last)
    }
  }

  /// The bytes of an object of so many; none where the range begins behind its end.
  func bytes(of size: Int) -> Range<Int> {
    switch self {
    case .from(let first): min(first, size)..<size
    case .between(let first, let last):
      first >= size || last < first ? size..<size : first..<min(last, size - 1) + 1
    case .last(0): 0..<size
    case .last(let count): max(size - count, 0)..<size
    }
  }

  private static func trimmed(_ text: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    let blanks: Set<UInt8> = [0x20, 0x09]
    return text.drop { blanks.contains($0) }.reversed().drop { blanks.contains($0) }.reversed()[...]
  }

  /// Digits only; a number beyond the type is as good as its largest one.
  private static func number(_ text: ArraySlice<UInt8>) -> Int? {
    guard text.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
    var value = 0
    for digit in text {
      let (tens, overflow) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = tens.addingReportingOverflow(Int(digit - 0x30))
      if overflow || carry { return .max }
      value = sum
    }
    return value
  }
}
