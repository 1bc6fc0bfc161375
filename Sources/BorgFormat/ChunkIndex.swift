/// A serialised chunk index: the list of all object ids that Borg 2 keeps in `cache/chunks.*`.
///
/// | Offset | Size | Field |
/// |---|---|---|
/// | 0 | 8 | `BORGHASH` |
/// | 8 | 4 | format version 1, little-endian |
/// | 12 | 4 | bytes L of metadata, little-endian |
/// | 16 | L | metadata: JSON, ASCII |
/// | 16 + L | 40 each | entries: id, flags and size, both 32 bits and little-endian |
///
/// This one is what `borg check` writes, byte for byte: make it with `ChunkIndexBuilder`. Sizes and
/// flags carry nothing there. It keeps 36 bytes for each id. Source: borg 2.0.0b18 `borg/cache.py`,
/// `write_chunkindex_to_repo_cache`; borghash 0.1 `HashTableNT.pyx`.
public struct ChunkIndex: Sendable {
  private let ids: ObjectIDList
  /// Positions in `ids`, in the order of the entries.
  private let order: [UInt32]
  private let header: [UInt8]

  /// The index with no entries, as in a repository that was just made: 297 bytes.
  public static var empty: Self {
    ChunkIndex(ids: ObjectIDList(), order: [], capacity: ChunkIndexLayout.initialCapacity)
  }

  fileprivate init(ids: ObjectIDList, order: [UInt32], capacity: Int) {
    self.ids = ids
    self.order = order
    self.header = ChunkIndexLayout.header(capacity: capacity, used: order.count)
  }

  /// Ids in the index.
  public var count: Int { order.count }

  /// Bytes that `write` gives out in all.
  public var byteCount: Int { header.count + order.count * ChunkIndexLayout.entrySize }

  /// Gives out the bytes in pieces of at most 64 KiB, in order; stops at the first error of the sink.
  public func write<Failure: Error>(
    to sink: (Span<UInt8>) throws(Failure) -> Void
  ) throws(Failure) {
    try write { (bytes, range) throws(Failure) in try sink(bytes.span.extracting(range)) }
  }

  /// The same pieces as ranges of an array, which is used again for the next one.
  public func write<Failure: Error>(
    to sink: ([UInt8], Range<Int>) throws(Failure) -> Void
  ) throws(Failure) {
    try sink(header, header.indices)
    let entrySize = ChunkIndexLayout.entrySize
    var piece = [UInt8](repeating: 0, count: ChunkIndexLayout.entriesPerPiece * entrySize)
    var filled = 0
    for position in order {
      let id = ids[Int(position)]
      piece.store(bigEndian: id.word0, at: filled)
      piece.store(bigEndian: id.word1, at: filled + 8)
      piece.store(bigEndian: id.word2, at: filled + 16)
      piece.store(bigEndian: id.word3, at: filled + 24)
      piece.store(bigEndian: ChunkIndexLayout.entryValue, at: filled + ObjectID.size)
      filled += entrySize
      if filled == piece.count {
        try sink(piece, piece.indices)
        filled = 0
      }
    }
    if filled > 0 { try sink(piece, 0..<filled) }
  }

  /// The name below `cache/`, made from a checksum of all bytes: computing it costs as much as a
  /// `write`.
  public var objectName: String {
    var hash = ChunkIndexLayout.hash
    write { hash.update($0) }
    return ChunkIndexLayout.objectName(for: hash)
  }
}

/// Collects object ids for a chunk index, and finds the order in which the original would write them.
///
/// The original keeps a hash table: open addressing from 1000 slots on, linear probing, twice the slots
/// once more than half are taken. `check` inserts the ids as it meets them, copies them to a second
/// table in the slot order of the first, and writes that in its slot order. Insert ascending ids, as
/// `check` meets them, for its bytes; readers accept any order.
///
/// Memory for n ids: 32 bytes of id, at most 24 of slots while a table grows, and 4 of order for each.
/// The 4-byte positions set a limit of 4,294,967,039 ids; more are left out, and clients then store
/// these objects again.
///
/// Ids choose their slot by their first four bytes, and a hostile client can choose ids: once a search
/// passes `maximumProbes` slots, as no ids from hashes make it do, the builder gives up the original's
/// order for that of arrival, and finds only repetitions that follow each other. The original's time is
/// quadratic then. Source: borghash 0.1 `HashTable.pyx`; borg 2.0.0b18 `borg/repository.py`,
/// `Repository.check`.
public struct ChunkIndexBuilder: Sendable {
  /// Slots that a search may pass: 4096. Half-full tables of hashes stay below some hundreds.
  public static let maximumProbes = 4096

  private var ids = ObjectIDList()
  /// `nil` once the ids turned out not to come from a hash.
  private var table: SlotTable? = SlotTable()

  /// A builder with no ids.
  public init() {}

  /// Different ids so far.
  public var count: Int { ids.count }

  /// Adds an id; one that is there already changes nothing.
  public mutating func insert(_ id: ObjectID) {
    guard ids.count < SlotTable.maximumCount else { return }
    switch table?.search(for: id, in: ids, maximumProbes: Self.maximumProbes) {
    case .found: return
    case .free(let slot):
      ids.append(id)
      table?.fill(slot, with: UInt32(truncatingIfNeeded: ids.count - 1), of: ids)
    case .gaveUp:
      table = nil
      ids.append(id)
    case nil:
      if ids.last != id { ids.append(id) }
    }
  }

  /// The index of all ids so far, which leave the builder: it is empty afterwards.
  public mutating func finish() -> ChunkIndex {
    defer { self = Self() }
    guard let firstOrder = table?.order else {
      let order = (0..<ids.count).map { UInt32(truncatingIfNeeded: $0) }
      return ChunkIndex(ids: ids, order: order, capacity: SlotTable.capacity(for: ids.count))
    }
    // The first table is let go before the second one grows: they are the larger part of the memory.
    table = nil
    var second = SlotTable()
    for position in firstOrder {
      second.fill(second.freeSlot(for: ids[Int(position)].slotKey), with: position, of: ids)
    }
    return ChunkIndex(ids: ids, order: second.order, capacity: second.capacity)
  }
}

/// What builder, writer and reader have to agree on.
enum ChunkIndexLayout {
  static let magic: StaticString = "BORGHASH"
  static let version: UInt32 = 1
  /// Bytes before the metadata.
  static let prefixSize = 16
  static let valueSize = 8
  static let entrySize = ObjectID.size + valueSize
  /// As many as fit into 64 KiB.
  static let entriesPerPiece = 64 * 1024 / entrySize
  /// Flags 0x01000000, least significant byte first, and size 0. The flag marks what a session added to
  /// its index; no reader looks at it, but the original has set it in everything it writes.
  static let entryValue: UInt64 = 0x0000_0001_0000_0000
  /// The original's table starts with this many slots, and never has fewer.
  static let initialCapacity = 1000

  /// The running checksum that ends up in the object's name; a seed of its own makes it no checksum of
  /// anything else.
  static var hash: XXH64 { XXH64(seed: 3) }

  static func objectName(for hash: XXH64) -> String {
    RepositoryLayout.chunkIndexPrefix + XXH64.hex(hash.finish())
  }

  static func header(capacity: Int, used: Int) -> [UInt8] {
    // Python's `json.dumps` of the original's dictionary.
    let metadata = """
      {"key_size": \(ObjectID.size), "value_size": \(valueSize), "byte_order": "little", \
      "value_type_name": "ChunkIndexEntry", "value_type_fields": ["flags", "size"], \
      "value_format_name": "ChunkIndexEntryFormatT", "value_format_fields": ["flags", "size"], \
      "value_format": ["I", "I"], "capacity": \(capacity), "used": \(used)}
      """
    var header: [UInt8] = []
    header.append(contentsOf: magic.description.utf8)
    header.append(littleEndian: version)
    header.append(littleEndian: UInt32(truncatingIfNeeded: metadata.utf8.count))
    header.append(contentsOf: metadata.utf8)
    return header
  }
}

/// Ids in the order of their arrival, in blocks: one array would be copied whole, and be there twice,
/// when it grows.
private struct ObjectIDList: Sendable {
  private static let blockBits = 16
  private static let blockSize = 1 << blockBits
  private var blocks: [[ObjectID]] = []
  private(set) var count = 0

  var last: ObjectID? { blocks.last?.last }

  subscript(position: Int) -> ObjectID {
    blocks[position >> Self.blockBits][position & (Self.blockSize - 1)]
  }

  mutating func append(_ id: ObjectID) {
    if count == blocks.count << Self.blockBits {
      var block: [ObjectID] = []
      block.reserveCapacity(Self.blockSize)
      blocks.append(block)
    }
    blocks[blocks.count - 1].append(id)
    count += 1
  }
}

/// The original's hash table: slots that hold the position of an id in a list.
private struct SlotTable: Sendable {
  /// Marks a slot without an id.
  private static let free = UInt32.max
  /// The original keeps the last 256 positions, and one more, for itself.
  static let maximumCount = 0xFFFF_FEFF

  private var slots = [UInt32](repeating: free, count: ChunkIndexLayout.initialCapacity)
  private var used = 0

  var capacity: Int { slots.count }

  /// The positions in slot order.
  var order: [UInt32] {
    var order: [UInt32] = []
    order.reserveCapacity(used)
    for position in slots where position != Self.free { order.append(position) }
    return order
  }

  /// Slots of a table after so many insertions.
  static func capacity(for count: Int) -> Int {
    var capacity = ChunkIndexLayout.initialCapacity
    while count > capacity / 2 { capacity *= 2 }
    return capacity
  }

  enum SearchResult {
    case found
    /// The slot in which the id belongs.
    case free(Int)
    case gaveUp
  }

  /// Looks for an id along the slots from its own one on.
  func search(for id: ObjectID, in ids: ObjectIDList, maximumProbes: Int) -> SearchResult {
    var slot = home(of: id.slotKey)
    for _ in 0..<maximumProbes {
      if slots[slot] == Self.free { return .free(slot) }
      if ids[Int(slots[slot])] == id { return .found }
      slot = next(slot)
    }
    return .gaveUp
  }

  /// The slot for an id that is known not to be in the table.
  func freeSlot(for key: UInt32) -> Int {
    var slot = home(of: key)
    while slots[slot] != Self.free { slot = next(slot) }
    return slot
  }

  /// Puts a position into a free slot; afterwards at least half of the slots are free, so that every
  /// search ends.
  mutating func fill(_ slot: Int, with position: UInt32, of ids: ObjectIDList) {
    slots[slot] = position
    used += 1
    if used > capacity / 2 { grow(ids) }
  }

  private mutating func grow(_ ids: ObjectIDList) {
    let old = slots
    slots = [UInt32](repeating: Self.free, count: old.count * 2)
    for position in old where position != Self.free {
      slots[freeSlot(for: ids[Int(position)].slotKey)] = position
    }
  }

  private func home(of key: UInt32) -> Int { Int(key) % slots.count }

  private func next(_ slot: Int) -> Int { slot + 1 == slots.count ? 0 : slot + 1 }
}

extension ObjectID {
  /// The part of an id that chooses its slot: the first four bytes.
  fileprivate var slotKey: UInt32 { UInt32(truncatingIfNeeded: word0 &>> 32) }
}

extension [UInt8] {
  /// Overwrites eight bytes, most significant first, at an offset of which the caller knows that eight
  /// bytes follow.
  @inline(__always)
  fileprivate mutating func store(bigEndian word: UInt64, at offset: Int) {
    for index in 0..<8 { self[offset + index] = UInt8(truncatingIfNeeded: word &>> UInt64(56 - 8 * index)) }
  }
}
