/// Why bytes are not a chunk index.
public enum ChunkIndexError: Error, Equatable, Sendable {
  /// The bytes end early; at least `needed` have to be there.
  case truncated(needed: Int)
  /// The first eight bytes are not `BORGHASH`.
  case wrongMagic
  /// A format version other than 1.
  case unsupportedVersion(UInt32)
  /// Metadata of a size that no index has.
  case metadataTooLarge(Int)
  /// Metadata that is no JSON.
  case metadataUnreadable(JSONError)
  /// Metadata that lacks a number, or has one that cannot be.
  case metadataInvalid
  /// Keys that are not ids, or values that are not two 32-bit numbers.
  case unsupportedEntries(keySize: Int, valueSize: Int)
}

/// What a chunk index says about itself; `ChunkIndex` shows the layout.
public struct ChunkIndexHeader: Hashable, Sendable {
  /// Ids in the index.
  public let count: Int
  /// Slots of the hash table that it was written from; of no use to a reader.
  public let capacity: Int
  /// Where the first entry starts.
  public let entriesOffset: Int

  /// Bytes of header and entries together.
  public var byteCount: Int { entriesOffset + count * ChunkIndexLayout.entrySize }

  /// Largest metadata that is looked at; real ones have less than 300 bytes.
  public static let maximumMetadataSize = 4096

  /// Reads the header that stands at the start of `index`; the entries need not be there.
  public init(parsing index: Span<UInt8>) throws(ChunkIndexError) {
    let prefixSize = ChunkIndexLayout.prefixSize
    guard index.count >= prefixSize else { throw .truncated(needed: prefixSize) }
    var offset = 0
    for byte in ChunkIndexLayout.magic.description.utf8 {
      guard index[offset] == byte else { throw .wrongMagic }
      offset += 1
    }
    let version = index.littleEndianUInt32(at: 8)
    guard version == ChunkIndexLayout.version else { throw .unsupportedVersion(version) }
    let metadataSize = Int(index.littleEndianUInt32(at: 12))
    guard metadataSize <= Self.maximumMetadataSize else { throw .metadataTooLarge(metadataSize) }
    self.entriesOffset = prefixSize + metadataSize
    guard index.count >= entriesOffset else { throw .truncated(needed: entriesOffset) }

    let metadata: JSON
    do { metadata = try JSON(parsing: index.extracting(prefixSize..<entriesOffset)) } catch {
      throw .metadataUnreadable(error)
    }
    guard case .int(let keySize) = metadata["key_size"], case .int(let valueSize) = metadata["value_size"],
      case .int(let capacity) = metadata["capacity"], case .int(let count) = metadata["used"],
      capacity > 0, (0...Int(UInt32.max)).contains(count)
    else { throw .metadataInvalid }
    guard keySize == ObjectID.size, valueSize == ChunkIndexLayout.valueSize else {
      throw .unsupportedEntries(keySize: keySize, valueSize: valueSize)
    }
    self.capacity = capacity
    self.count = count
  }
}

/// Takes the ids out of a chunk index whose bytes arrive in pieces, in about 4 KiB of memory.
///
/// Flags and sizes are passed over, and bytes after the last entry are ignored, as the original does.
/// The ids are no better than the bytes: an index counts only if `objectName` afterwards equals its
/// name. Source: borghash 0.1 `HashTableNT.pyx`.
public struct ChunkIndexReader: Sendable {
  /// The header, once all of it is there.
  public private(set) var header: ChunkIndexHeader?
  /// Whether the bytes so far are those that Borg writes for these ids: the same metadata, a table of a size
  /// that so many ids come to, nothing in flags and sizes, nothing behind the last entry. Clients end, or
  /// take memory without bound, on indexes that are not.
  public private(set) var isCanonical = true
  /// Bytes of the header, or of an entry, that is not whole yet.
  private var held: [UInt8] = []
  private var entriesRead = 0
  private var bytesRead = 0
  private var hash = ChunkIndexLayout.hash

  /// A reader that has seen no bytes.
  public init() {}

  /// Adds the bytes that follow those of earlier calls, and gives out the ids that became whole.
  ///
  /// After an error the reader is of no further use.
  public mutating func update(
    _ bytes: Span<UInt8>, forEachID body: (ObjectID) -> Void
  ) throws(ChunkIndexError) {
    hash.update(bytes)
    bytesRead += bytes.count
    var offset = 0
    while header == nil, offset < bytes.count {
      held.append(bytes[offset])
      offset += 1
      try readHeader()
    }
    guard let header else { return }
    let entrySize = ChunkIndexLayout.entrySize
    while entriesRead < header.count {
      let isWhole = held.isEmpty && bytes.count - offset >= entrySize
      if isWhole {
        if let id = ObjectID(bytes.extracting(offset..<(offset + ObjectID.size))) { body(id) }
        isCanonical =
          isCanonical && bytes.bigEndianUInt64(at: offset + ObjectID.size) == ChunkIndexLayout.entryValue
        entriesRead += 1
        offset += entrySize
      } else if offset < bytes.count {
        held.append(bytes[offset])
        offset += 1
        guard held.count == entrySize else { continue }
        if let id = ObjectID(held.span.extracting(first: ObjectID.size)) { body(id) }
        isCanonical =
          isCanonical && held.span.bigEndianUInt64(at: ObjectID.size) == ChunkIndexLayout.entryValue
        entriesRead += 1
        held.removeAll(keepingCapacity: true)
      } else {
        return
      }
    }
    if offset < bytes.count { isCanonical = false }
  }

  /// Throws `truncated` unless all entries are there.
  public func finish() throws(ChunkIndexError) {
    guard let header else {
      _ = try ChunkIndexHeader(parsing: held.span)
      return
    }
    guard entriesRead == header.count else { throw .truncated(needed: header.byteCount) }
  }

  /// The name below `cache/` that an object with the bytes so far has to have.
  public var objectName: String { ChunkIndexLayout.objectName(for: hash) }

  /// Reads all ids of an index that is in memory as a whole.
  public static func forEachID(
    in index: Span<UInt8>, _ body: (ObjectID) -> Void
  ) throws(ChunkIndexError) {
    var reader = Self()
    try reader.update(index, forEachID: body)
    try reader.finish()
  }

  /// Looks at the held bytes when the prefix is whole, and again when the metadata is.
  private mutating func readHeader() throws(ChunkIndexError) {
    do {
      let header = try ChunkIndexHeader(parsing: held.span)
      isCanonical =
        header.capacity <= max(ChunkIndexLayout.initialCapacity, 8 * header.count)
        && held == ChunkIndexLayout.header(capacity: header.capacity, used: header.count)
      self.header = header
      held.removeAll(keepingCapacity: true)
    } catch .truncated {
      return
    }
  }
}
