/// Why bytes are not an object header.
public enum ObjectHeaderError: Error, Equatable, Sendable {
  /// The bytes end inside the header; `count` are there of `ObjectHeader.size`. Every longer text has a
  /// header.
  case truncated(count: Int)
}

/// The 24 bytes in front of every object of a Borg 2 repository: sizes and checksums of the two parts
/// behind it.
///
/// | Offset | Size | Field |
/// |---|---|---|
/// | 0 | 4 | bytes of metadata, little-endian |
/// | 4 | 4 | bytes of data, little-endian |
/// | 8 | 8 | XXH64 of the metadata, big-endian |
/// | 16 | 8 | XXH64 of the data, big-endian |
///
/// The metadata follows at once, then the data; what comes after that belongs to nobody and is accepted.
/// Both parts are encrypted, so this header is all that a server can check. Source: borg 2.0.0b18
/// `borg/repoobj.py`, `RepoObj.obj_header`.
public struct ObjectHeader: Hashable, Sendable {
  /// Bytes in a header.
  public static let size = 24

  /// Bytes of metadata behind the header; up to 4 GiB, whatever the object really holds.
  public let metaSize: Int
  /// Bytes of data behind the metadata; up to 4 GiB, whatever the object really holds.
  public let dataSize: Int
  /// XXH64, seed 0, of the metadata.
  public let metaHash: UInt64
  /// XXH64, seed 0, of the data.
  public let dataHash: UInt64

  /// Bytes of header, metadata and data together; a sound object has at least as many.
  public var objectSize: Int { Self.size + metaSize + dataSize }

  /// Reads the header that stands at the start of `object`; more bytes may follow it.
  public init(parsing object: Span<UInt8>) throws(ObjectHeaderError) {
    guard object.count >= Self.size else { throw .truncated(count: object.count) }
    self.metaSize = Int(object.littleEndianUInt32(at: 0))
    self.dataSize = Int(object.littleEndianUInt32(at: 4))
    self.metaHash = object.bigEndianUInt64(at: 8)
    self.dataHash = object.bigEndianUInt64(at: 16)
  }
}
