/// What is known of the content of `hints.N` or `index.N`: hex digests of it, by name.
///
/// Written as JSON text, a value of `IntegrityData`. Source: borg 1.4.5 `borg/crypto/file_integrity.py`.
public struct FileDigest: Equatable, Sendable {
  /// The only algorithm that Borg 1 writes.
  public static let algorithm = "XXH64"

  /// The name of the digest of everything.
  public static let final = "final"

  /// The name of the digest of an index up to the end of its header.
  public static let header = "HashHeader"

  public let algorithm: String
  public let digests: [String: String]

  /// Whether files can be held against it. A digest of another algorithm stands for no check, with a warning.
  ///
  /// The original also knows SHA512, which no version has ever written.
  public var isKnown: Bool { algorithm == Self.algorithm }

  /// Digests by name.
  public init(algorithm: String = Self.algorithm, digests: [String: String]) {
    self.algorithm = algorithm
    self.digests = digests
  }

  /// A digest that no file has, for text that is not the digest of one: the file then counts as damaged, as in the
  /// original.
  public static let unreadable = FileDigest(digests: [:])

  /// Reads the JSON text; what it does not say is `unreadable`.
  public init(parsing text: Span<UInt8>) {
    guard let json = try? JSON(parsing: text), case .string(let algorithm) = json["algorithm"] else {
      self = .unreadable
      return
    }
    guard algorithm == Self.algorithm else {
      self.init(algorithm: algorithm, digests: [:])
      return
    }
    guard case .object(let members) = json["digests"] else {
      self = .unreadable
      return
    }
    var digests: [String: String] = [:]
    for member in members {
      guard case .string(let digest) = member.value else {
        self = .unreadable
        return
      }
      digests[member.name] = digest
    }
    self.init(digests: digests[Self.final] == nil ? [:] : digests)
  }

  /// The JSON text, byte for byte as Borg writes it.
  public func encode() -> [UInt8] {
    var text = Array("{\"algorithm\": ".utf8)
    JSON.append(quoted: algorithm, to: &text)
    text.append(contentsOf: ", \"digests\": {".utf8)
    var isFirst = true
    // Bytes in ascending order: the header's name before the last one's, as they come to be.
    for (name, digest) in digests.sorted(by: { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }) {
      if !isFirst { text.append(contentsOf: ", ".utf8) }
      isFirst = false
      JSON.append(quoted: name, to: &text)
      text.append(contentsOf: ": ".utf8)
      JSON.append(quoted: digest, to: &text)
    }
    text.append(contentsOf: "}}".utf8)
    return text
  }
}

/// The digest of a file that is written or read from its beginning to its end.
///
/// It covers the file's name, so that one generation of a file cannot stand for another. For an index: `update` with
/// the header, `part(FileDigest.header, at: 18)`, `update` with the buckets, `part(FileDigest.final, at:)` with the
/// file's size. For hints: `update` with everything and the last `part`.
///
/// Source: borg 1.4.5 `borg/crypto/file_integrity.py`.
public struct FileDigester: Sendable {
  private var hash = XXH64()
  /// The digests of the parts so far, by name.
  public private(set) var digests: [String: String] = [:]

  /// The digest of nothing yet; the name is `hints.N` or `index.N`, also where the file still has another.
  public init(fileName: String) {
    addName(fileName)
  }

  /// Adds the bytes that follow in the file.
  public mutating func update(_ bytes: [UInt8], _ range: Range<Int>) {
    hash.update(bytes.span.extracting(range))
  }

  /// Adds the bytes that follow in the file.
  public mutating func update(_ bytes: Span<UInt8>) {
    hash.update(bytes)
  }

  /// Ends a part of the file at a position counted from its beginning, and keeps the digest up to there.
  public mutating func part(_ name: String, at position: Int) {
    addName(name)
    hash.update(Array(String(position).utf8))
    digests[name] = hex
  }

  /// The digest of all that was added, which also depends on the parts that were ended.
  public var hex: String { XXH64.hex(hash.finish()) }

  /// What is stored of the file, once its last part has been ended.
  public var digest: FileDigest { FileDigest(digests: digests) }

  /// Whether each part that was ended has the digest that is known of it.
  public func matches(_ known: FileDigest) -> Bool {
    digests.allSatisfy { known.digests[$0.key] == $0.value }
  }

  /// Adds the length of a name, in ten characters, and the name.
  private mutating func addName(_ name: String) {
    let length = String(name.utf8.count)
    var text = [UInt8](repeating: UInt8(ascii: " "), count: max(0, 10 - length.utf8.count))
    text.append(contentsOf: length.utf8)
    text.append(contentsOf: name.utf8)
    hash.update(text)
  }
}
