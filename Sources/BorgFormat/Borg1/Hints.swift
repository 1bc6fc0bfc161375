/// Why bytes are not the hints of a transaction.
public enum HintsFault: Error, Equatable, Sendable {
  /// Not MessagePack, or not what belongs into hints: what is wrong.
  case corrupt(String)
  /// A version that cannot be written to: `Hints.parse` knows 1 and 2.
  case unknownVersion(Int)
}

/// The file `hints.N` of Borg 1: what compaction has to know of the segments up to transaction N.
///
/// A MessagePack map in the old dialect, with the keys `version` (2), `segments`, `compact`, `storage_quota_use` and
/// `shadow_index`. Source: borg 1.4.5 `borg/repository.py`, `write_index` and `prepare_txn`.
public struct Hints: Equatable, Sendable {
  /// For each segment, how many of its PUTs are in the index. Below zero in repositories that a crash has hurt.
  public var segments: [UInt32: Int]
  /// For each segment, how many of its bytes are of no use.
  public var compact: [UInt32: Int]
  /// Bytes of all PUT entries in the segments, in the index or not.
  public var storageQuotaUse: Int
  /// For each id, the segments with PUTs of it that are not in the index, one as often as it has such PUTs.
  public var shadowIndex: [ObjectID: [UInt32]]

  /// What a file holds, by its version.
  public enum Parsed: Equatable, Sendable {
    case current(Hints)
    /// Borg 1.0: how many PUTs each segment has in the index, and the segments with anything of no use; how many bytes
    /// that are has to be found out from the segments.
    case versionOne(segments: [UInt32: Int], compact: [UInt32])
  }

  /// The hints of a repository without segments.
  public init() {
    segments = [:]
    compact = [:]
    storageQuotaUse = 0
    shadowIndex = [:]
  }

  /// Reads hints of version 2; those of 1 are an unknown version here.
  public init(parsing bytes: [UInt8]) throws(HintsFault) {
    guard case .current(let hints) = try Self.parse(bytes) else { throw .unknownVersion(1) }
    self = hints
  }

  /// Reads hints of either version.
  ///
  /// Strings may be of the raw family, str8 or binary; keys may come in any order, of several the last counts; unknown
  /// ones are ignored. A quota use and a shadow index that are missing are empty, as 1.1 leaves them. Memory is a small
  /// multiple of the bytes given.
  public static func parse(_ bytes: [UInt8]) throws(HintsFault) -> Parsed {
    var reader = FieldReader(bytes)
    do {
      return try reader.hints(in: bytes.span)
    } catch let fault as HintsFault {
      throw fault
    } catch let error as MessagePackError {
      throw .corrupt("not MessagePack: \(error)")
    } catch {
      throw .corrupt("unreadable")
    }
  }

  /// The bytes as Borg writes them, with the segments and ids in ascending order.
  public func encode() -> [UInt8] {
    var writer = MessagePackWriter(
      reserving: 128 + 8 * (segments.count + compact.count) + 48 * shadowIndex.count)
    writer.map(count: 5)
    writer.rawString("version")
    writer.int(2)
    writer.rawString("segments")
    Self.append(segments, to: &writer)
    writer.rawString("compact")
    Self.append(compact, to: &writer)
    writer.rawString("storage_quota_use")
    writer.int(Int64(storageQuotaUse))
    writer.rawString("shadow_index")
    writer.map(count: shadowIndex.count)
    for (id, shadowed) in shadowIndex.sorted(by: { $0.key < $1.key }) {
      writer.rawHeader(count: ObjectID.size)
      id.append(to: &writer.bytes)
      writer.array(count: shadowed.count)
      for segment in shadowed { writer.int(Int64(segment)) }
    }
    return writer.bytes
  }

  private static func append(_ counts: [UInt32: Int], to writer: inout MessagePackWriter) {
    writer.map(count: counts.count)
    for (segment, count) in counts.sorted(by: { $0.key < $1.key }) {
      writer.int(Int64(segment))
      writer.int(Int64(count))
    }
  }
}

/// A reader for the maps with text keys that `hints.N` and `integrity.N` are.
struct FieldReader {
  private var reader: MessagePackReader

  /// A reader at the start; no text has more elements than bytes.
  init(_ bytes: [UInt8]) {
    reader = MessagePackReader(elements: bytes.count)
  }

  /// Reads a map and gives its known text keys to a closure, which reads the value; the others are passed over. The
  /// map has to be all there is.
  mutating func fields(
    in bytes: Span<UInt8>, _ read: (inout Self, Field, Span<UInt8>) throws -> Void
  ) throws {
    guard case .map(let count) = try reader.head(in: bytes) else { throw HintsFault.corrupt("not a map") }
    for _ in 0..<count {
      let start = reader
      if let name = try text(in: bytes), let field = Field(rawValue: name) {
        try read(&self, field, bytes)
      } else {
        reader = start
        _ = try reader.skip(in: bytes)
        _ = try reader.skip(in: bytes)
      }
    }
    guard reader.offset == bytes.count else { throw HintsFault.corrupt("something follows the map") }
  }

  /// The names that mean something; each file has its own.
  enum Field: String {
    case version, segments, compact, hints, index
    case storageQuotaUse = "storage_quota_use"
    case shadowIndex = "shadow_index"
  }

  /// Reads a short text; `nil` for anything else, the cursor being anywhere then.
  private mutating func text(in bytes: Span<UInt8>) throws(MessagePackError) -> String? {
    guard let range = try string(in: bytes), range.count <= 64 else { return nil }
    var text = ""
    for index in range { text.unicodeScalars.append(Unicode.Scalar(bytes[index])) }
    return text
  }

  /// Reads a string of any family and gives its place; `nil` for another value.
  mutating func string(in bytes: Span<UInt8>) throws(MessagePackError) -> Range<Int>? {
    switch try reader.head(in: bytes) {
    case .string(let length), .binary(let length): try reader.payload(length, in: bytes)
    default: nil
    }
  }

  /// Reads a number; `nil` for another value, or one beyond 64 bits with sign.
  mutating func int(in bytes: Span<UInt8>) throws(MessagePackError) -> Int64? {
    guard case .int(let value) = try reader.head(in: bytes) else { return nil }
    return value
  }

  mutating func skip(in bytes: Span<UInt8>) throws(MessagePackError) {
    _ = try reader.skip(in: bytes)
  }

  // MARK: Hints

  /// What the field `compact` may be, before the version is known.
  private enum Compact {
    case absent
    case counts([UInt32: Int])
    case list([UInt32])
  }

  fileprivate mutating func hints(in bytes: Span<UInt8>) throws -> Hints.Parsed {
    var version: Int64?
    var hasSegments = false
    var compact = Compact.absent
    var hints = Hints()
    try fields(in: bytes) { (reader, field, bytes) in
      switch field {
      case .version: version = try reader.number(field, in: bytes)
      case .segments:
        hasSegments = true
        hints.segments = try reader.counts(field, of: reader.mapCount(field, in: bytes), in: bytes)
      case .compact:
        switch try reader.reader.head(in: bytes) {
        case .map(let count): compact = .counts(try reader.counts(field, of: count, in: bytes))
        case .array(let count): compact = .list(try reader.segmentList(field, of: count, in: bytes))
        default: throw HintsFault.corrupt("compact is neither map nor array")
        }
      case .storageQuotaUse: hints.storageQuotaUse = Int(try reader.number(field, in: bytes))
      case .shadowIndex: hints.shadowIndex = try reader.shadowIndex(in: bytes)
      case .hints, .index: try reader.skip(in: bytes)
      }
    }
    guard let version else { throw HintsFault.corrupt("no version") }
    guard version == 1 || version == 2 else { throw HintsFault.unknownVersion(Int(version)) }
    guard hasSegments else { throw HintsFault.corrupt("no segments") }
    switch (version, compact) {
    case (1, .list(let segments)): return .versionOne(segments: hints.segments, compact: segments)
    // The original runs through whatever it is: of a map through the keys.
    case (1, .counts(let counts)):
      return .versionOne(segments: hints.segments, compact: counts.keys.sorted())
    case (2, .counts(let counts)):
      hints.compact = counts
      return .current(hints)
    default: throw HintsFault.corrupt("no compact of version \(version)")
    }
  }

  private mutating func number(_ field: Field, in bytes: Span<UInt8>) throws -> Int64 {
    guard let value = try int(in: bytes) else { throw HintsFault.corrupt("\(field.rawValue) is no number") }
    return value
  }

  private mutating func segment(_ field: Field, in bytes: Span<UInt8>) throws -> UInt32 {
    guard let segment = UInt32(exactly: try number(field, in: bytes)) else {
      throw HintsFault.corrupt("\(field.rawValue) has a segment that cannot be")
    }
    return segment
  }

  private mutating func mapCount(_ field: Field, in bytes: Span<UInt8>) throws -> Int {
    guard case .map(let count) = try reader.head(in: bytes) else {
      throw HintsFault.corrupt("\(field.rawValue) is no map")
    }
    return count
  }

  /// Refuses what announces more elements than there are bytes for, before memory is taken for them.
  private func admit(_ elements: Int, in bytes: Span<UInt8>) throws(MessagePackError) {
    guard elements <= bytes.count - reader.offset else { throw .truncated(needed: reader.offset + elements) }
  }

  private mutating func counts(
    _ field: Field, of count: Int, in bytes: Span<UInt8>
  ) throws -> [UInt32: Int] {
    try admit(2 * count, in: bytes)
    var counts: [UInt32: Int] = [:]
    counts.reserveCapacity(count)
    for _ in 0..<count {
      let segment = try segment(field, in: bytes)
      counts[segment] = Int(try number(field, in: bytes))
    }
    return counts
  }

  private mutating func segmentList(
    _ field: Field, of count: Int, in bytes: Span<UInt8>
  ) throws -> [UInt32] {
    try admit(count, in: bytes)
    var segments: [UInt32] = []
    segments.reserveCapacity(count)
    for _ in 0..<count { segments.append(try segment(field, in: bytes)) }
    return segments
  }

  private mutating func shadowIndex(in bytes: Span<UInt8>) throws -> [ObjectID: [UInt32]] {
    let field = Field.shadowIndex
    let count = try mapCount(field, in: bytes)
    try admit((ObjectID.size + 2) * count, in: bytes)
    var shadows: [ObjectID: [UInt32]] = [:]
    shadows.reserveCapacity(count)
    for _ in 0..<count {
      guard let range = try string(in: bytes), let id = ObjectID(bytes.extracting(range)) else {
        throw HintsFault.corrupt("shadow_index has a key that is no id")
      }
      guard case .array(let length) = try reader.head(in: bytes) else {
        throw HintsFault.corrupt("shadow_index has a value that is no array")
      }
      shadows[id] = try segmentList(field, of: length, in: bytes)
    }
    return shadows
  }
}
