import TestKit
import BorgFormat
import Testing

struct ChunkIndexTests {
  static let recorded = Recorded.rows(Recorded.indexes, columns: 6)

  /// The ids of a recorded case, in the order in which a check meets them.
  static func ids(_ kind: String, _ count: Int) throws -> [ObjectID] {
    var random = SeededGenerator(seed: UInt64(count))
    return try (0..<count).map { number in
      if kind == "repeated" {
        return try #require(ObjectID([UInt8](repeating: UInt8(number + 1), count: 32)))
      }
      var first = random.next()
      if kind == "crowded" {
        let slotKey = (first >> 32) % 50 * 1000 + 990 + first % 10
        first = slotKey << 32 | first & 0xFFFF_FFFF
      }
      return ObjectID(first, random.next(), random.next(), random.next())
    }.sorted()
  }

  static func index(_ ids: [ObjectID]) -> ChunkIndex {
    var builder = ChunkIndexBuilder()
    for id in ids { builder.insert(id) }
    return builder.finish()
  }

  static func bytes(_ index: ChunkIndex) -> [UInt8] {
    var bytes: [UInt8] = []
    index.write { for position in $0.indices { bytes.append($0[position]) } }
    return bytes
  }

  static func ids(in bytes: [UInt8]) throws -> [ObjectID] {
    var ids: [ObjectID] = []
    try ChunkIndexReader.forEachID(in: bytes.span) { ids.append($0) }
    return ids
  }

  // MARK: Writing

  @Test(arguments: recorded)
  func `an index has the bytes and the name that borg check gives it`(row: [String]) throws {
    let ids = try Self.ids(row[0], try #require(Int(row[1])))
    let index = Self.index(ids)
    let bytes = Self.bytes(index)
    #expect(index.count == ids.count)
    #expect(index.byteCount == Int(row[3]))
    #expect(bytes.count == index.byteCount)
    #expect(index.objectName == row[4])
    if !row[5].isEmpty { #expect(Hex.string(bytes) == row[5]) }
    #expect(try ChunkIndexHeader(parsing: bytes).capacity == Int(row[2]))
    #expect(try Self.ids(in: bytes).sorted() == ids)
  }

  @Test func `the documented example comes out`() throws {
    let ids = try [1, 7].map { try #require(ObjectID([UInt8](repeating: $0, count: 32))) }
    #expect(Self.index(ids).objectName == "chunks.5e45eeb50b8de8e3")
    #expect(Self.index(ids).byteCount == 377)
  }

  @Test func `an empty index is the one of a new repository`() {
    #expect(ChunkIndex.empty.objectName == "chunks.a283591f50db914c")
    #expect(ChunkIndex.empty.byteCount == 297)
    #expect(Self.bytes(.empty) == Self.bytes(Self.index([])))
  }

  @Test func `an id that comes twice counts once`() throws {
    let ids = try Self.ids("crowded", 450)
    var builder = ChunkIndexBuilder()
    for id in ids {
      builder.insert(id)
      builder.insert(id)
    }
    for id in ids.reversed() { builder.insert(id) }
    #expect(builder.count == ids.count)
    #expect(Self.bytes(builder.finish()) == Self.bytes(Self.index(ids)))
  }

  @Test(arguments: randomSeeds)
  func `ids in any order come back`(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let ids = try Self.ids("crowded", Int.random(in: 0...1200, using: &random))
    #expect(try Self.ids(in: Self.bytes(Self.index(ids.shuffled(using: &random)))).sorted() == ids)
  }

  @Test func `ids that were chosen to collide cost little, and come out in the order of arrival`() throws {
    var random = SeededGenerator(seed: 1)
    let ids = (0..<50_000).map { _ in
      ObjectID(random.next() >> 32, random.next(), random.next(), random.next())
    }
    var builder = ChunkIndexBuilder()
    for id in ids {
      builder.insert(id)
      builder.insert(id)
    }
    let bytes = Self.bytes(builder.finish())
    #expect(try Self.ids(in: bytes) == ids)
    #expect(try ChunkIndexHeader(parsing: bytes).capacity == 128_000)
    builder.insert(ids[0])
    #expect(Self.bytes(builder.finish()) == Self.bytes(Self.index([ids[0]])))
  }

  @Test func `finishing leaves the builder empty and usable`() throws {
    var builder = ChunkIndexBuilder()
    for id in try Self.ids("random", 1500) { builder.insert(id) }
    _ = builder.finish()
    #expect(builder.count == 0)
    #expect(Self.bytes(builder.finish()) == Self.bytes(.empty))
  }

  @Test func `more ids than a block holds come out, in small pieces`() throws {
    let ids = try Self.ids("random", 70_000)
    let index = Self.index(ids)
    var sizes: [Int] = []
    var reader = ChunkIndexReader()
    var read: [ObjectID] = []
    try index.write { (piece) throws(ChunkIndexError) in
      sizes.append(piece.count)
      try reader.update(piece) { read.append($0) }
    }
    try reader.finish()
    #expect(read.sorted() == ids)
    #expect(sizes.reduce(0, +) == index.byteCount)
    #expect(sizes.allSatisfy { (1...65536).contains($0) })
    #expect(reader.objectName == index.objectName)
  }

  @Test(arguments: 1...3)
  func `an error of the sink ends the writing`(failing: Int) throws {
    struct Full: Error {}
    let index = Self.index(try Self.ids("random", 5000))
    var calls = 0
    #expect(throws: Full.self) {
      try index.write { _ in
        calls += 1
        if calls == failing { throw Full() }
      }
    }
    #expect(calls == failing)
  }

  // MARK: Reading

  static func sample() throws -> [UInt8] { bytes(index(try ids("repeated", 7))) }

  @Test func `every prefix is truncated, and says how much is needed`() throws {
    for prefix in try Self.sample().prefixes {
      let needed = prefix.count < 16 ? 16 : prefix.count < 297 ? 297 : 577
      #expect(throws: ChunkIndexError.truncated(needed: needed)) { try Self.ids(in: prefix) }
    }
  }

  @Test func `a flipped bit is refused, or changes the name`() throws {
    let sample = try Self.sample()
    let name = Self.index(try Self.ids("repeated", 7)).objectName
    var accepted = 0
    for bytes in sample.withEachBitFlipped {
      var reader = ChunkIndexReader()
      guard (try? reader.update(bytes.span) { _ in }) != nil, (try? reader.finish()) != nil else { continue }
      accepted += 1
      #expect(reader.objectName != name)
    }
    // All bits of the seven entries, and some of the metadata that no reader needs.
    #expect(accepted >= 7 * 40 * 8)
  }

  @Test(arguments: randomSeeds)
  func `pieces give the same ids as the whole`(seed: UInt64) throws {
    let ids = try Self.ids("random", 20)
    let bytes = Self.bytes(Self.index(ids))
    var reader = ChunkIndexReader()
    var read: [ObjectID] = []
    for piece in bytes.pieces(seed: seed) { try reader.update(piece.span) { read.append($0) } }
    try reader.finish()
    #expect(read == (try Self.ids(in: bytes)))
  }

  @Test func `bytes behind the last entry are ignored, but change the name`() throws {
    var reader = ChunkIndexReader()
    var count = 0
    try reader.update((try Self.sample() + [1, 2, 3]).span) { _ in count += 1 }
    try reader.finish()
    #expect(count == 7)
    #expect(reader.objectName != Self.index(try Self.ids("repeated", 7)).objectName)
  }

  /// An index with this metadata and no entries.
  static func bytes(metadata: String, version: UInt8 = 1, announcing size: Int? = nil) -> [UInt8] {
    let size = size ?? metadata.utf8.count
    let sizeBytes = [0, 8, 16, 24].map { UInt8(truncatingIfNeeded: size >> $0) }
    return Array("BORGHASH".utf8) + [version, 0, 0, 0] + sizeBytes + Array(metadata.utf8)
  }

  static let refusedMetadata: [(String, ChunkIndexError)] = [
    (#"{"key_size": 32, "value_size": 8, "capacity": 1000, "used": -1}"#, .metadataInvalid),
    (#"{"key_size": 32, "value_size": 8, "capacity": 1000, "used": 4294967296}"#, .metadataInvalid),
    (#"{"key_size": 32, "value_size": 8, "capacity": 1000, "used": 1e3}"#, .metadataInvalid),
    (#"{"key_size": 32, "value_size": 8, "capacity": 0, "used": 0}"#, .metadataInvalid),
    (#"{"key_size": 32, "value_size": 8, "capacity": 1000}"#, .metadataInvalid),
    (
      #"{"key_size": 32, "value_size": 9223372036854775807, "capacity": 1, "used": 9}"#,
      .unsupportedEntries(keySize: 32, valueSize: .max)
    ),
    (
      #"{"key_size": 0, "value_size": 0, "capacity": 1, "used": 9}"#,
      .unsupportedEntries(keySize: 0, valueSize: 0)
    ),
    (
      #"{"key_size": 32, "value_size": 8, "capacity": 1000, "used": 4294967295}"#,
      .truncated(needed: 16 + 71 + 4_294_967_295 * 40)
    ),
    (#"[]"#, .metadataInvalid),
    (#"{"#, .metadataUnreadable(.truncated)),
    (#""#, .metadataUnreadable(.truncated)),
  ]

  @Test(arguments: refusedMetadata)
  func `metadata that cannot be is refused`(metadata: String, error: ChunkIndexError) {
    #expect(throws: error) { try Self.ids(in: Self.bytes(metadata: metadata)) }
  }

  @Test func `another magic, version or a huge header is refused before it is read`() throws {
    #expect(throws: ChunkIndexError.wrongMagic) { try Self.ids(in: Array("BORG_IDX00000000".utf8)) }
    #expect(throws: ChunkIndexError.unsupportedVersion(2)) {
      try Self.ids(in: Self.bytes(metadata: "{}", version: 2))
    }
    #expect(throws: ChunkIndexError.metadataTooLarge(0xFFFF_FFFF)) {
      try Self.ids(in: Self.bytes(metadata: "{}", announcing: 0xFFFF_FFFF))
    }
  }

  @Test(arguments: randomSeeds)
  func `random bytes are refused, also behind a sound prefix`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for count in 0..<60 {
      let tail = random.bytes(count)
      #expect(throws: ChunkIndexError.self) { try Self.ids(in: tail) }
      let whole = Self.bytes(metadata: String(decoding: tail, as: UTF8.self))
      #expect(throws: ChunkIndexError.self) { try Self.ids(in: whole) }
    }
  }
}
