/// The file `index.N` of Borg 1: a hash table as it lies in memory.
///
/// 18 bytes of `IndexHeader`, then buckets of 40 bytes: an id, then segment and offset of its PUT as little-endian
/// 32-bit numbers. An id's first bucket is `homeBucket`; the search goes on at the next one, from the last to the
/// first, until an empty one.
///
/// Source: borg 1.4.5 `_hashindex.c`.
public enum IndexFormat {
  /// `BORG_IDX`.
  public static let magic: [UInt8] = Array("BORG_IDX".utf8)

  /// Bytes before the first bucket.
  public static let headerSize = 18

  /// Bytes of a bucket.
  public static let bucketSize = ObjectID.size + valueSize

  /// Bytes of a value.
  static let valueSize = 8

  /// The segment of a bucket that never held anything since the table was made.
  public static let emptySegment: UInt32 = 0xffff_ffff

  /// The segment of a bucket whose id was deleted; the search goes on behind it.
  public static let deletedSegment: UInt32 = 0xffff_fffe

  /// The sizes that tables grow and shrink along: primes, at first twice as large as the one before.
  public static let bucketCounts: [Int] = [
    1031, 2053, 4099, 8209, 16411, 32771, 65537, 131101, 262147, 445649, 757607, 1_287_917, 2_189_459,
    3_065_243,
    4_291_319, 6_007_867, 8_410_991, 11_775_359, 16_485_527, 23_079_703, 27_695_653, 33_234_787, 39_881_729,
    47_858_071, 57_429_683, 68_915_617, 82_698_751, 99_238_507, 119_086_189, 144_378_011, 157_223_263,
    173_476_439,
    190_253_911, 209_915_011, 230_493_629, 253_169_431, 278_728_861, 306_647_623, 337_318_939, 370_742_809,
    408_229_973, 449_387_209, 493_428_073, 543_105_119, 596_976_533, 657_794_869, 722_676_499, 795_815_791,
    874_066_969, 962_279_771, 1_057_701_643, 1_164_002_657, 1_280_003_147, 1_407_800_297, 1_548_442_699,
    1_703_765_389, 1_873_768_367, 2_062_383_853,
  ]

  /// The smallest and largest of `bucketCounts`.
  static let fewestBuckets = 1031
  static let mostBuckets = 2_062_383_853

  /// A table with more entries than this is enlarged before another id enters it: three quarters, rounded down. The
  /// largest table is used to the last bucket.
  public static func growthThreshold(buckets: Int) -> Int {
    buckets >= mostBuckets ? buckets : Int(Double(buckets) * 0.75)
  }

  /// A table with fewer entries than this after a deletion is made smaller: a quarter, rounded down; 0 for the
  /// smallest tables.
  public static func shrinkThreshold(buckets: Int) -> Int {
    buckets <= fewestBuckets ? 0 : Int(Double(buckets) * 0.25)
  }

  /// Buckets of a table that are never filled: with fewer empty ones, whose place deleted ones take, searches for
  /// what is not there take too long, and the table is built anew in the same size.
  public static func minimumEmpty(buckets: Int) -> Int { 1 + Int(Double(buckets) * (1.0 - 0.93)) }

  /// The size of the table that takes the place of a full one with so many buckets.
  public static func buckets(forGrowingFrom buckets: Int) -> Int {
    bucketCounts[min(position(of: buckets) + 1, bucketCounts.count - 1)]
  }

  /// The size of the table that takes the place of one with so many buckets and few entries.
  public static func buckets(forShrinkingFrom buckets: Int) -> Int {
    bucketCounts[max(position(of: buckets) - 1, 0)]
  }

  /// The size that a table has when so many ids have entered it one by one.
  public static func buckets(for entries: Int) -> Int {
    bucketCounts.first { entries - 1 <= growthThreshold(buckets: $0) } ?? mostBuckets
  }

  /// The bucket at which the search for an id begins: its first four bytes as a little-endian number, modulo the
  /// number of buckets, which is positive.
  public static func homeBucket(of id: ObjectID, buckets: Int) -> Int {
    Int(UInt32(truncatingIfNeeded: id.word0 &>> 32).byteSwapped) % buckets
  }

  /// The place in `bucketCounts` of the first size that is not below this one, or of the last.
  private static func position(of buckets: Int) -> Int {
    bucketCounts.firstIndex { $0 >= buckets } ?? bucketCounts.count - 1
  }
}

/// Why bytes are not an index of Borg 1.
public enum IndexFault: Error, Equatable, Sendable {
  /// Fewer than 18 bytes.
  case shortHeader(got: Int)
  case wrongMagic
  /// Counts that contradict each other, or sizes of keys and values that no Borg 1 repository has.
  case invalidHeader
  /// The file has another length than so many buckets have.
  case wrongLength(expected: Int, got: Int)

  /// The original's text.
  public var message: String {
    switch self {
    case .shortHeader(let got):
      "Could not read header (expected \(IndexFormat.headerSize), but read \(got) bytes)"
    case .wrongMagic: "Unknown MAGIC in header"
    case .invalidHeader: "Invalid header"
    case .wrongLength(let expected, let got): "Incorrect file length (expected \(expected), got \(got))"
    }
  }
}

/// The first 18 bytes of an index: magic, entries and buckets as little-endian 32-bit numbers, and the sizes of key
/// and value, 32 and 8, in a byte each.
public struct IndexHeader: Hashable, Sendable {
  /// Ids in the table. The original relies on it: it has to be exact.
  public let entries: Int
  /// Buckets of the table, at least one.
  public let buckets: Int

  /// Bytes of the whole file.
  public var fileSize: Int { IndexFormat.headerSize + buckets * IndexFormat.bucketSize }

  /// The header of a table; both numbers are within 2³¹−1.
  public init(entries: Int, buckets: Int) {
    self.entries = entries
    self.buckets = buckets
  }

  /// Reads the header at the start of a file of so many bytes; only the header need be there.
  public init(parsing bytes: Span<UInt8>, fileSize: Int) throws(IndexFault) {
    guard bytes.count >= IndexFormat.headerSize else { throw .shortHeader(got: bytes.count) }
    for index in 0..<8 {
      guard bytes[index] == IndexFormat.magic[index] else { throw .wrongMagic }
    }
    entries = Int(Int32(bitPattern: bytes.littleEndianUInt32(at: 8)))
    buckets = Int(Int32(bitPattern: bytes.littleEndianUInt32(at: 12)))
    guard bytes[16] == UInt8(ObjectID.size), bytes[17] == UInt8(IndexFormat.valueSize), buckets >= 1,
      (0...buckets).contains(entries)
    else { throw .invalidHeader }
    guard fileSize == self.fileSize else { throw .wrongLength(expected: self.fileSize, got: fileSize) }
  }

  /// The 18 bytes.
  public func encode() -> [UInt8] {
    var bytes = IndexFormat.magic
    bytes.append(littleEndian: UInt32(entries))
    bytes.append(littleEndian: UInt32(buckets))
    bytes.append(UInt8(ObjectID.size))
    bytes.append(UInt8(IndexFormat.valueSize))
    return bytes
  }
}
