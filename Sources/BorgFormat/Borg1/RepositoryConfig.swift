/// Why a repository's `config` cannot be used.
public enum ConfigFault: Error, Equatable, Sendable {
  /// There is no section `[repository]`.
  case noSection
  /// A repository of another version than 1.
  case unsupportedVersion(Int)
  /// Segments may not grow so large that offsets do not fit into an index.
  case segmentsTooLarge
  /// What the original has no words of its own for: the text, or an option, is not what it has to be.
  case invalid(String)

  /// The reason that the original gives with InvalidRepositoryConfig; `nil` for `invalid`, which is another error.
  public var reason: String? {
    switch self {
    case .noSection: "no repository section found"
    case .unsupportedVersion(let version):
      "repository version \(version) is not supported by this borg version"
    case .segmentsTooLarge: "max_segment_size >= \(RepositoryConfig.segmentSizeLimit)"
    case .invalid: nil
    }
  }
}

/// The file `config` of a Borg 1 repository: the section `[repository]` of a `ConfigText`.
///
/// Options that are not known, and other sections, are kept. Source: borg 1.4.5 `borg/repository.py`, `create`, `open`
/// and `save_config`.
public struct RepositoryConfig: Equatable, Sendable {
  /// `max_segment_size` is below this: 2³² less the largest entry.
  public static let segmentSizeLimit = 1 << 32 - SegmentFormat.entryLimit

  /// What a new repository has.
  static let defaultSegmentsPerDirectory = 1000
  static let defaultSegmentSize = 500 * 1024 * 1024

  /// 1 EiB, more than any disk has: sums of such sizes stay within an `Int`.
  private static let sizeLimit = Double(1 << 60)

  private static let section = "repository"

  private enum Option: String {
    case version
    case segmentsPerDirectory = "segments_per_dir"
    case maxSegmentSize = "max_segment_size"
    case appendOnly = "append_only"
    case storageQuota = "storage_quota"
    case additionalFreeSpace = "additional_free_space"
    case id
    case key
    case lastSegmentChecked = "last_segment_checked"
  }

  private var text: ConfigText

  /// The settings of a new repository with an id of 32 bytes; a quota of 0 is none.
  public init(newWithID id: [UInt8], appendOnly: Bool = false, storageQuota: Int = 0) {
    let options: [(Option, String)] = [
      (.version, "1"),
      (.segmentsPerDirectory, String(Self.defaultSegmentsPerDirectory)),
      (.maxSegmentSize, String(Self.defaultSegmentSize)),
      (.appendOnly, appendOnly ? "1" : "0"),
      (.storageQuota, String(storageQuota)),
      (.additionalFreeSpace, "0"),
      (.id, Hex.string(id)),
    ]
    text = ConfigText(sections: [
      ConfigText.Section(
        name: Self.section, options: options.map { ConfigText.Option(name: $0.rawValue, value: $1) })
    ])
  }

  /// Reads a config of at most `Limits.repositoryConfig` bytes, and refuses what the original does not open, in the
  /// same order. Less than one segment for a directory is refused too.
  public init(parsing bytes: [UInt8]) throws(ConfigFault) {
    guard bytes.count <= Limits.repositoryConfig else { throw .invalid("more than 1 MiB") }
    text = try ConfigText(parsing: bytes)
    guard text.sections.contains(where: { $0.name == Self.section }) else { throw .noSection }
    let version = try Self.parseInt(require(.version))
    guard version == 1 else { throw .unsupportedVersion(version) }
    guard try Self.parseSize(require(.maxSegmentSize)) < Self.segmentSizeLimit else {
      throw .segmentsTooLarge
    }
    let segmentsPerDirectory = try Self.parseInt(require(.segmentsPerDirectory))
    guard segmentsPerDirectory > 0 else { throw .invalid("segments_per_dir has to be positive") }
    if let space = self[.additionalFreeSpace] { _ = try Self.parseSize(space) }
    if let appendOnly = self[.appendOnly] { _ = try Self.parseBool(appendOnly) }
    if let quota = self[.storageQuota] { _ = try Self.parseSize(quota) }
    let id = Array(try require(.id).stripped.utf8)
    if let fault = Hex.fault(in: id, size: 32) { throw .invalid(fault) }
  }

  /// The text as the original writes it.
  public func encode() -> [UInt8] { text.encode() }

  // What follows was checked on reading, so that the other values are never taken.

  /// Always 1.
  public var version: Int { int(.version) ?? 1 }

  /// How many segments a directory below `data` takes.
  public var segmentsPerDirectory: Int { int(.segmentsPerDirectory) ?? Self.defaultSegmentsPerDirectory }

  /// A segment with more bytes than this takes no further entry. May be negative.
  public var maxSegmentSize: Int {
    get { size(.maxSegmentSize) ?? Self.defaultSegmentSize }
    set { self[.maxSegmentSize] = String(newValue) }
  }

  /// Whether nothing may be removed.
  public var appendOnly: Bool {
    get { self[.appendOnly].flatMap { try? Self.parseBool($0) } ?? false }
    set { self[.appendOnly] = newValue ? "1" : "0" }
  }

  /// Bytes that all PUTs together may have; 0 for no limit.
  public var storageQuota: Int {
    get { size(.storageQuota) ?? 0 }
    set { self[.storageQuota] = String(newValue) }
  }

  /// Bytes that have to be left on the disk after a commit.
  public var additionalFreeSpace: Int {
    get { size(.additionalFreeSpace) ?? 0 }
    set { self[.additionalFreeSpace] = String(newValue) }
  }

  /// The 32 bytes by which clients know the repository.
  public var id: [UInt8] { self[.id].flatMap { Hex.decode($0.stripped, letters: .anyCase) } ?? [] }

  /// The encrypted key that a client stores here, without white space at its ends; `nil` without one.
  public var key: [UInt8]? {
    guard let key = self[.key]?.stripped, !key.isEmpty else { return nil }
    return Array(key.utf8)
  }

  /// Stores a key: lines of UTF-8, of which white space at both ends, and empty lines at the end, may be lost.
  ///
  /// Refused is a key of which more would be lost, or which would set other options, when the config is read again: a
  /// carriage return, or a line that looks like a comment. The original stores it and cannot open the repository then.
  public mutating func setKey(_ key: [UInt8]) throws(ConfigFault) {
    guard let key = String(validating: key, as: UTF8.self) else { throw .invalid("a key that is not UTF-8") }
    var changed = self
    changed[.key] = key
    guard changed.text.encode().count <= Limits.repositoryConfig else {
      throw .invalid("a key that is too long")
    }
    var expected = self
    expected.text = try ConfigText(parsing: text.encode())
    var found = self
    found.text = try ConfigText(parsing: changed.text.encode())
    let lines = { (text: String) in text.stripped.split(separator: "\n", omittingEmptySubsequences: false) }
    let isKept = lines(found[.key] ?? "").elementsEqual(lines(key)) {
      String($0).stripped == String($1).stripped
    }
    expected[.key] = key
    found[.key] = key
    guard isKept, found == expected else { throw .invalid("a key that the config cannot hold") }
    self = changed
  }

  /// The last segment that a partial check has got to; `nil` where none is under way, or for what is no segment.
  public var lastSegmentChecked: Int? {
    get { int(.lastSegmentChecked).flatMap { UInt32(exactly: $0) }.map { Int($0) } }
    set { self[.lastSegmentChecked] = newValue.map { String($0) } }
  }

  // MARK: Values

  private subscript(option: Option) -> String? {
    get { text.value(option.rawValue, in: Self.section) }
    set { text.set(option.rawValue, in: Self.section, to: newValue) }
  }

  private func require(_ option: Option) throws(ConfigFault) -> String {
    guard let value = self[option] else {
      throw .invalid("No option '\(option.rawValue)' in section: '\(Self.section)'")
    }
    return value
  }

  private func int(_ option: Option) -> Int? { self[option].flatMap { try? Self.parseInt($0) } }

  private func size(_ option: Option) -> Int? { self[option].flatMap { try? Self.parseSize($0) } }

  /// A number as Python's `int` takes it, in ASCII digits: blanks around it, a sign, single `_` between digits.
  private static func parseInt(_ text: String) throws(ConfigFault) -> Int {
    guard let digits = withoutSeparators(text.stripped), let value = Int(digits) else {
      throw notInteger(text)
    }
    return value
  }

  private static func notInteger(_ text: String) -> ConfigFault {
    .invalid("invalid literal for int() with base 10: '\(text.replacing("\n", with: "\\n"))'")
  }

  /// A number as Python's `float` takes it, cut off behind the point; one letter behind it may multiply it. What
  /// is beyond `sizeLimit` counts as that.
  ///
  /// Source: borg 1.4.5 `borg/helpers/parseformat.py`, `parse_file_size`.
  private static func parseSize(_ text: String) throws(ConfigFault) -> Int {
    guard !text.isEmpty else { throw notInteger(text) }
    let factors: [Character: Double] = ["K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15]
    let factor = text.last.flatMap { factors[$0] }
    let number = factor == nil ? text : String(text.dropLast())
    let isPlain = { (scalar: Unicode.Scalar) in "0123456789+-.eE".unicodeScalars.contains(scalar) }
    guard let digits = withoutSeparators(number.stripped), digits.unicodeScalars.allSatisfy(isPlain),
      let value = Double(digits)
    else { throw .invalid("could not convert string to float: '\(number)'") }
    let size = (value * (factor ?? 1)).rounded(.towardZero)
    guard size.isFinite else { throw .invalid("cannot convert float infinity to integer") }
    return Int(min(max(size, -sizeLimit), sizeLimit))
  }

  /// Source: CPython 3.11 `Lib/configparser.py`, `BOOLEAN_STATES`.
  private static func parseBool(_ text: String) throws(ConfigFault) -> Bool {
    switch text.lowercased() {
    case "1", "yes", "true", "on": return true
    case "0", "no", "false", "off": return false
    default: throw .invalid("Not a boolean: \(text)")
    }
  }

  /// Digits without the single `_` that Python allows between two of them; `nil` where one stands elsewhere.
  private static func withoutSeparators(_ text: String) -> String? {
    var digits = ""
    var previous: Unicode.Scalar = "_"
    let scalars = Array(text.unicodeScalars)
    for (index, scalar) in scalars.enumerated() {
      let isDigit = { (scalar: Unicode.Scalar) in ("0"..."9").contains(scalar) }
      if scalar != "_" {
        digits.unicodeScalars.append(scalar)
      } else {
        guard isDigit(previous), index + 1 < scalars.count, isDigit(scalars[index + 1]) else { return nil }
      }
      previous = scalar
    }
    return digits
  }
}

extension Hex {
  /// Why digits, of any case, are not so many bytes, in the original's words; `nil` where they are.
  static func fault(in digits: [UInt8], size: Int) -> String? {
    guard let bytes = decode(digits.span, letters: .anyCase) else {
      return digits.count.isMultiple(of: 2) ? "Non-hexadecimal digit found" : "Odd-length string"
    }
    return bytes.count == size
      ? nil : "Expected \(size) bytes (\(2 * size) hex digits), got \(bytes.count) bytes."
  }
}
