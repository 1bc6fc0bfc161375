/// A moment in milliseconds since 1970-01-01 00:00 UTC, leap seconds not counted: the resolution of
/// Borg's lock records.
public struct Timestamp: Hashable, Comparable, Sendable {
  /// Negative before 1970.
  public let milliseconds: Int64

  /// The moment so many milliseconds after 1970-01-01 00:00 UTC.
  public init(milliseconds: Int64) {
    self.milliseconds = milliseconds
  }

  /// Earlier is less.
  public static func < (left: Self, right: Self) -> Bool { left.milliseconds < right.milliseconds }

  /// Whether this moment lies more than `seconds`, which are not negative, after `earlier`.
  public func isLater(than earlier: Self, byMoreThan seconds: Int) -> Bool {
    // A limit beyond the type is one that no moment reaches.
    let (span, spanOverflow) = Int64(seconds).multipliedReportingOverflow(by: 1000)
    let (limit, limitOverflow) = earlier.milliseconds.addingReportingOverflow(span)
    return !spanOverflow && !limitOverflow && milliseconds > limit
  }

  // MARK: Text

  /// The form `2026-11-23T01:36:58.578+00:00`, always in UTC and 29 characters long.
  ///
  /// Moments outside of the years 1 to 9999, which the form and Python's `datetime` cannot hold, become
  /// the nearest that they can. Source: Python's `datetime.isoformat(timespec="milliseconds")`.
  public var iso8601: String {
    let moment = min(max(milliseconds, Self.earliest), Self.latest)
    let days = moment.floorDivided(by: 86_400_000)
    let date = CivilDate(daysSince1970: days)
    let time = moment - days * 86_400_000
    var text: [UInt8] = []
    text.reserveCapacity(29)
    func append(_ value: Int64, digits: Int, then mark: Unicode.Scalar) {
      var divisor: Int64 = 1
      for _ in 1..<digits { divisor *= 10 }
      while divisor > 0 {
        text.append(UInt8(truncatingIfNeeded: 0x30 + value / divisor % 10))
        divisor /= 10
      }
      text.append(UInt8(ascii: mark))
    }
    append(date.year, digits: 4, then: "-")
    append(date.month, digits: 2, then: "-")
    append(date.day, digits: 2, then: "T")
    append(time / 3_600_000, digits: 2, then: ":")
    append(time / 60_000 % 60, digits: 2, then: ":")
    append(time / 1000 % 60, digits: 2, then: ".")
    append(time % 1000, digits: 3, then: "+")
    return String(decoding: text, as: UTF8.self) + "00:00"
  }

  /// Reads a date and time as Python 3.11's `datetime.fromisoformat` does.
  ///
  /// Date `YYYY-MM-DD` or `YYYYMMDD`; then nothing, or any one ASCII character, the time and perhaps an
  /// offset. Time `HH`, `HH:MM`, `HH:MM:SS`, or the same without colons, seconds with a point or comma
  /// and any number of digits, of which three are kept. Offset `Z`, or a sign and the same forms as the
  /// time without a fraction, below 24 hours. Without an offset the time is UTC, where Python has a time
  /// without zone. Python's week dates and fractions in offsets are refused, and so are slips of its
  /// parser such as `:` before the fraction.
  public init?(iso8601 text: Span<UInt8>) {
    var reader = ISO8601Reader()
    guard let days = reader.date(in: text) else { return nil }
    var time: Int64 = 0
    if reader.offset < text.count {
      guard text[reader.offset] < 0x80 else { return nil }
      reader.offset += 1
      guard let clock = reader.clock(in: text), let zone = reader.zone(in: text) else { return nil }
      time = clock - zone
    }
    guard reader.offset == text.count else { return nil }
    self.init(milliseconds: days * 86_400_000 + time)
  }

  /// Reads a date and time; see the overload for spans.
  public init?(iso8601 text: String) {
    self.init(iso8601: text.utf8.span)
  }

  /// 0001-01-01T00:00:00.000.
  private static let earliest: Int64 = -62_135_596_800_000
  /// 9999-12-31T23:59:59.999.
  private static let latest: Int64 = 253_402_300_799_999
}

/// A day of the proleptic Gregorian calendar.
///
/// Both conversions count years from March, so that the leap day is a year's last and months have a
/// regular pattern: 153 days for each five months. Source: Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms".
private struct CivilDate {
  let year: Int64
  let month: Int64
  let day: Int64

  /// A date of the calendar; `nil` for one that is not in it, or outside of the years 1 to 9999.
  init?(year: Int64, month: Int64, day: Int64) {
    guard (1...9999).contains(year), (1...12).contains(month), day >= 1 else { return nil }
    let isLeap = year.isMultiple(of: 4) && (!year.isMultiple(of: 100) || year.isMultiple(of: 400))
    let last: Int64 =
      switch month {
      case 2: isLeap ? 29 : 28
      case 4, 6, 9, 11: 30
      default: 31
      }
    guard day <= last else { return nil }
    self.year = year
    self.month = month
    self.day = day
  }

  /// The date of a day that lies within some millions of years around 1970.
  init(daysSince1970 days: Int64) {
    let shifted = days + Self.daysToEpoch
    let era = shifted.floorDivided(by: Self.daysPerEra)
    let dayOfEra = shifted - era * Self.daysPerEra
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let monthFromMarch = (5 * dayOfYear + 2) / 153
    day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
    month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
    year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
  }

  var daysSince1970: Int64 {
    let yearFromMarch = month <= 2 ? year - 1 : year
    let era = yearFromMarch.floorDivided(by: 400)
    let yearOfEra = yearFromMarch - era * 400
    let monthFromMarch = month > 2 ? month - 3 : month + 9
    let dayOfYear = (153 * monthFromMarch + 2) / 5 + day - 1
    let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
    return era * Self.daysPerEra + dayOfEra - Self.daysToEpoch
  }

  /// Days in 400 years, after which the calendar repeats.
  private static let daysPerEra: Int64 = 146_097
  /// Days from 0000-03-01 to 1970-01-01.
  private static let daysToEpoch: Int64 = 719_468
}

extension Int64 {
  /// The quotient rounded down, for a positive divisor.
  fileprivate func floorDivided(by divisor: Int64) -> Int64 {
    let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
    return remainder < 0 ? quotient - 1 : quotient
  }
}

/// A cursor over an ISO 8601 text; after a `nil` its position means nothing.
private struct ISO8601Reader {
  var offset = 0

  /// Days since 1970.
  mutating func date(in text: Span<UInt8>) -> Int64? {
    guard let year = number(digits: 4, in: text) else { return nil }
    let isExtended = take(UInt8(ascii: "-"), in: text)
    guard let month = number(digits: 2, in: text), take(UInt8(ascii: "-"), in: text) == isExtended,
      let day = number(digits: 2, in: text)
    else { return nil }
    return CivilDate(year: year, month: month, day: day)?.daysSince1970
  }

  /// Milliseconds since midnight; a second of 60 is refused, as in Python.
  mutating func clock(in text: Span<UInt8>, allowsFraction: Bool = true) -> Int64? {
    guard let hour = number(digits: 2, in: text), hour < 24 else { return nil }
    var milliseconds = hour * 3_600_000
    let isExtended = take(UInt8(ascii: ":"), in: text)
    guard isExtended || nextIsDigit(in: text) else { return milliseconds }
    guard let minute = number(digits: 2, in: text), minute < 60 else { return nil }
    milliseconds += minute * 60_000
    guard isExtended ? take(UInt8(ascii: ":"), in: text) : nextIsDigit(in: text) else { return milliseconds }
    guard let second = number(digits: 2, in: text), second < 60 else { return nil }
    milliseconds += second * 1000
    guard allowsFraction, take(UInt8(ascii: "."), in: text) || take(UInt8(ascii: ","), in: text) else {
      return milliseconds
    }
    guard nextIsDigit(in: text) else { return nil }
    var weight: Int64 = 100
    while nextIsDigit(in: text), let digit = number(digits: 1, in: text) {
      milliseconds += digit * weight
      weight /= 10
    }
    return milliseconds
  }

  /// Milliseconds that local time is ahead of UTC; 0 where no offset follows.
  mutating func zone(in text: Span<UInt8>) -> Int64? {
    guard offset < text.count else { return 0 }
    if take(UInt8(ascii: "Z"), in: text) { return 0 }
    if take(UInt8(ascii: "+"), in: text) { return clock(in: text, allowsFraction: false) }
    guard take(UInt8(ascii: "-"), in: text) else { return nil }
    return clock(in: text, allowsFraction: false).map { -$0 }
  }

  private mutating func number(digits: Int, in text: Span<UInt8>) -> Int64? {
    var value: Int64 = 0
    for _ in 0..<digits {
      guard nextIsDigit(in: text) else { return nil }
      value = value * 10 + Int64(text[offset] - 0x30)
      offset += 1
    }
    return value
  }

  private func nextIsDigit(in text: Span<UInt8>) -> Bool {
    offset < text.count && (0x30...0x39).contains(text[offset])
  }

  private mutating func take(_ byte: UInt8, in text: Span<UInt8>) -> Bool {
    guard offset < text.count, text[offset] == byte else { return false }
    offset += 1
    return true
  }
}
