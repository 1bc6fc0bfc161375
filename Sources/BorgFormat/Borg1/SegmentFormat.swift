/// What a segment file of Borg 1 is made of: eight bytes of magic, then entries.
///
/// An entry is, all numbers little-endian:
///
/// | Offset | Size | Field |
/// |---|---|---|
/// | 0 | 4 | `CRC32` of all that follows |
/// | 4 | 4 | size of the entry, all of it |
/// | 8 | 1 | `SegmentTag` |
/// | 9 | 32 | id, for PUT and DELETE |
/// | 41 | rest | data, for PUT |
///
/// Source: borg 1.4.5 `borg/repository.py`, `LoggedIO`.
public enum SegmentFormat {
  /// `BORG_SEG`, the first bytes of every segment file.
  public static let magic: [UInt8] = Array("BORG_SEG".utf8)

  /// `ATTICSEG`, the first bytes of a segment of Borg's ancestor, which Borg 1 refuses to open.
  public static let atticMagic: [UInt8] = Array("ATTICSEG".utf8)

  /// Bytes of checksum, size and tag.
  public static let headerSize = 9

  /// Bytes of the header and an id: a whole DELETE, and what precedes the data of a PUT.
  public static let keyedHeaderSize = headerSize + ObjectID.size

  /// Bytes in the largest entry, its 41-byte header included: 20 MiB (MAX_OBJECT_SIZE).
  public static let entryLimit = 20 * 1024 * 1024

  /// The only COMMIT there is.
  public static let commitEntry: [UInt8] = [0x40, 0xf4, 0x3c, 0x25, 0x09, 0x00, 0x00, 0x00, 0x02]

  /// Bytes of a segment file with a COMMIT and nothing else.
  public static let commitSegmentSize = 17

  /// The highest number of a segment that an index can hold: what is above has a meaning of its own there.
  public static let largestSegment: UInt32 = 4_294_966_271
}

/// What an entry of a segment does. Other numbers are an error in every Borg 1.
public enum SegmentTag: UInt8, Sendable {
  case put = 0
  case delete
  case commit
}

/// The first nine bytes of an entry, of which nothing is checked.
public struct SegmentEntryHeader: Equatable, Sendable {
  /// What `CRC32` of the rest of the entry, from the size on, has to be.
  public let crc: UInt32
  /// Bytes of the whole entry, as it says itself: 0 to 2³²−1.
  public let size: Int
  /// The tag's number, whether it has a meaning or not.
  public let rawTag: UInt8

  /// The tag; `nil` where the number is not one of Borg 1.
  public var tag: SegmentTag? { SegmentTag(rawValue: rawTag) }

  /// Reads the header at an offset; `nil` where fewer than nine bytes are left, or the offset is outside.
  public init?(_ bytes: Span<UInt8>, at offset: Int) {
    guard offset >= 0, offset <= bytes.count, bytes.count - offset >= SegmentFormat.headerSize else {
      return nil
    }
    crc = bytes.littleEndianUInt32(at: offset)
    size = Int(bytes.littleEndianUInt32(at: offset + 4))
    rawTag = bytes[offset + 8]
  }

  /// Appends the 41 bytes that precede the data of a PUT; the caller writes the data behind them.
  ///
  /// The data is `range` of `bytes`, at most `Limits.putData` bytes; it is read for the checksum only. Nothing is
  /// allocated where the buffer has room.
  public static func appendPut(
    _ id: ObjectID, _ bytes: [UInt8], _ range: Range<Int>, to buffer: inout [UInt8]
  ) {
    append(.put, id, bytes.span.extracting(range), to: &buffer)
  }

  /// Appends a whole DELETE, 41 bytes.
  public static func appendDelete(_ id: ObjectID, to buffer: inout [UInt8]) {
    append(.delete, id, Span(), to: &buffer)
  }

  private static func append(_ tag: SegmentTag, _ id: ObjectID, _ data: Span<UInt8>, to buffer: inout [UInt8])
  {
    let start = buffer.count
    buffer.append(littleEndian: 0)
    buffer.append(littleEndian: UInt32(SegmentFormat.keyedHeaderSize + data.count))
    buffer.append(tag.rawValue)
    id.append(to: &buffer)
    var crc = CRC32.checksum(buffer, (start + 4)..<buffer.count)
    crc = CRC32.checksum(data, continuing: crc)
    for index in start..<(start + 4) {
      buffer[index] = UInt8(truncatingIfNeeded: crc)
      crc &>>= 8
    }
  }
}
