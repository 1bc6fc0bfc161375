import BorgFormat

/// Where an object's entry begins in the log.
struct EntryLocation: Hashable, Comparable, Sendable {
  let segment: UInt32
  /// Bytes from the beginning of the segment's file.
  let offset: UInt32

  static func < (left: Self, right: Self) -> Bool {
    (left.segment, left.offset) < (right.segment, right.offset)
  }

  /// As a bucket holds it: the segment in the lower half.
  init(packed: UInt64) {
    (segment, offset) = (UInt32(truncatingIfNeeded: packed), UInt32(truncatingIfNeeded: packed >> 32))
  }

  init(segment: UInt32, offset: UInt32) { (self.segment, self.offset) = (segment, offset) }

  var packed: UInt64 { UInt64(offset) << 32 | UInt64(segment) }
}

/// One bucket of an index: five words in the order of the file, where integers are little-endian.
struct IndexBucket: Equatable, Sendable {
  var key0, key1, key2, key3: UInt64
  /// Segment and offset, or one of the marks in place of the segment.
  var value: UInt64

  /// Segment words that mark a bucket as never used, as used no longer, and, in memory only, as the removal of what an
  /// older table holds. Source: borg 1.4.5 `_hashindex.c`.
  static let empty = UInt64(UInt32.max)
  static let deleted = UInt64(UInt32.max - 1)
  static let removal = UInt64(UInt32.max - 2)

  /// Words in a bucket.
  static let words = 5

  init(_ id: ObjectID, _ value: UInt64) {
    // An id's words are its bytes read as big-endian integers, a table's the same bytes read as little-endian ones.
    (key0, key1) = (id.word0.byteSwapped, id.word1.byteSwapped)
    (key2, key3) = (id.word2.byteSwapped, id.word3.byteSwapped)
    self.value = value
  }

  /// The bucket that begins at a word of `words`.
  init(in words: [UInt64], at index: Int) {
    key0 = words[index]
    key1 = words[index + 1]
    key2 = words[index + 2]
    key3 = words[index + 3]
    value = words[index + 4]
  }

  var id: ObjectID { ObjectID(key0.byteSwapped, key1.byteSwapped, key2.byteSwapped, key3.byteSwapped) }

  func hasKey(of other: Self) -> Bool {
    key0 == other.key0 && key1 == other.key1 && key2 == other.key2 && key3 == other.key3
  }

  /// Where a table of this many buckets looks for it first.
  func home(of buckets: Int) -> Int { Int(UInt32(truncatingIfNeeded: key0)) % buckets }

  /// The value's lower half, which says what the bucket is.
  var mark: UInt64 { value & 0xffff_ffff }
  var isEmpty: Bool { mark == Self.empty }
  var isDeleted: Bool { mark == Self.deleted }
}

/// A hash table of ids in memory, laid out as the index file is: open addressing with linear probing.
///
/// Ids are cryptographic hashes, so their first bytes are the hash. Source: borg 1.4.5 `_hashindex.c`.
struct IndexTable: Sendable {
  /// `IndexBucket.words` for each bucket.
  private(set) var words: [UInt64]
  private(set) var buckets: Int
  /// Buckets that hold something, removals included.
  private(set) var count = 0
  /// Buckets that were never used.
  private var empties: Int

  /// An empty table, of the smallest size unless it is known to be filled.
  init(buckets: Int = IndexFormat.bucketCounts[0]) {
    self.buckets = buckets
    empties = buckets
    words = Self.fresh(buckets)
  }

  private static func fresh(_ buckets: Int) -> [UInt64] {
    var words = [UInt64](repeating: 0, count: buckets * IndexBucket.words)
    var index = IndexBucket.words - 1
    while index < words.count {
      words[index] = IndexBucket.empty
      index += IndexBucket.words
    }
    return words
  }

  /// The bucket of a number.
  subscript(_ bucket: Int) -> IndexBucket { IndexBucket(in: words, at: bucket * IndexBucket.words) }

  /// The number of the bucket that holds the id, or nil.
  func find(_ id: ObjectID) -> Int? {
    let wanted = IndexBucket(id, 0)
    var bucket = wanted.home(of: buckets)
    for _ in 0..<buckets {
      let found = self[bucket]
      if found.isEmpty { return nil }
      if !found.isDeleted && found.hasKey(of: wanted) { return bucket }
      bucket = bucket + 1 == buckets ? 0 : bucket + 1
    }
    return nil
  }

  /// What the id has as its value: a packed location or a removal; nil if it is not there.
  func value(_ id: ObjectID) -> UInt64? { find(id).map { words[$0 * IndexBucket.words + 4] } }

  /// Gives the id a value, whether or not it has one.
  mutating func set(_ id: ObjectID, _ value: UInt64) {
    let new = IndexBucket(id, value)
    var free: Int?
    var bucket = new.home(of: buckets)
    for _ in 0..<buckets {
      let found = self[bucket]
      if found.isEmpty { break }
      if found.isDeleted {
        free = free ?? bucket
      } else if found.hasKey(of: new) {
        words[bucket * IndexBucket.words + 4] = value
        return
      }
      bucket = bucket + 1 == buckets ? 0 : bucket + 1
    }
    if free == nil {
      if count > IndexFormat.growthThreshold(buckets: buckets) {
        rebuild(buckets: IndexFormat.buckets(forGrowingFrom: buckets))
        return set(id, value)
      }
      // Few that were never used make every search for what is not there long.
      if empties <= IndexFormat.minimumEmpty(buckets: buckets) {
        rebuild(buckets: buckets)
        return set(id, value)
      }
      empties -= 1
    }
    write(new, at: free ?? bucket)
    count += 1
  }

  mutating func remove(_ id: ObjectID) {
    guard let bucket = find(id) else { return }
    // Key and offset stay in place, as in the original's tables.
    words[bucket * IndexBucket.words + 4] =
      words[bucket * IndexBucket.words + 4] & ~0xffff_ffff | IndexBucket.deleted
    count -= 1
  }

  private mutating func write(_ bucket: IndexBucket, at index: Int) {
    let word = index * IndexBucket.words
    words[word] = bucket.key0
    words[word + 1] = bucket.key1
    words[word + 2] = bucket.key2
    words[word + 3] = bucket.key3
    words[word + 4] = bucket.value
  }

  /// Moves everything to a table of so many buckets, without the traces of what is gone.
  private mutating func rebuild(buckets newBuckets: Int) {
    let old = words
    buckets = newBuckets
    words = Self.fresh(buckets)
    empties = buckets
    var index = 0
    while index < old.count {
      let bucket = IndexBucket(in: old, at: index)
      if !bucket.isEmpty && !bucket.isDeleted { place(bucket) }
      index += IndexBucket.words
    }
  }

  /// Adds an id that is not there to a table that has no deleted buckets and room.
  mutating func insertNew(_ id: ObjectID, _ location: EntryLocation) {
    place(IndexBucket(id, location.packed))
    count += 1
  }

  /// Writes a bucket whose key is not there into a table without deleted ones.
  private mutating func place(_ new: IndexBucket) {
    var bucket = new.home(of: buckets)
    while words[bucket * IndexBucket.words + 4] & 0xffff_ffff != IndexBucket.empty {
      bucket = bucket + 1 == buckets ? 0 : bucket + 1
    }
    write(new, at: bucket)
    empties -= 1
  }
}
