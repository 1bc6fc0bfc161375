import BorgFormat
import TestKit
import Testing

struct IndexFormatTests {
  @Test(arguments: Recorded.rows(Recorded.indexHeaders))
  func `a header is taken or refused as borg does, with its text`(row: [String]) throws {
    let header = try [UInt8](recorded: row[0])
    var message = ""
    do { _ = try IndexHeader(parsing: header, fileSize: try #require(Int(row[1]))) } catch let fault
      as IndexFault
    {
      message = fault.message
    }
    #expect(message == (try String(recorded: row[2])))
  }

  @Test func `a header survives the way through bytes`() throws {
    let header = IndexHeader(entries: 774, buckets: 1031)
    #expect(header.fileSize == 41258)
    #expect(try IndexHeader(parsing: header.encode(), fileSize: 41258) == header)
    for bytes in damaged(header.encode()) { _ = try? IndexHeader(parsing: bytes, fileSize: 41258) }
  }

  @Test func `tables grow and shrink where borg's do`() throws {
    var buckets = IndexFormat.fewestBuckets
    for row in Recorded.rows(Recorded.tableSizes) {
      let entries = try #require(Int(row[1]))
      let isGrowing = row[0] == "enter"
      if isGrowing {
        // The last id entered after the table had grown.
        #expect(entries - 1 > IndexFormat.growthThreshold(buckets: buckets))
        #expect(entries - 2 <= IndexFormat.growthThreshold(buckets: buckets))
        #expect(IndexFormat.buckets(for: entries - 1) == buckets)
      } else {
        #expect(entries < IndexFormat.shrinkThreshold(buckets: buckets))
        #expect(entries + 1 >= IndexFormat.shrinkThreshold(buckets: buckets))
      }
      buckets =
        isGrowing
        ? IndexFormat.buckets(forGrowingFrom: buckets) : IndexFormat.buckets(forShrinkingFrom: buckets)
      #expect(String(buckets) == row[2])
      if isGrowing { #expect(IndexFormat.buckets(for: entries) == buckets) }
    }
    #expect(buckets == IndexFormat.fewestBuckets)
  }

  @Test func `sizes ascend, and end where nothing is left to grow to`() {
    let counts = IndexFormat.bucketCounts
    #expect(counts.count == 58)
    #expect(zip(counts, counts.dropFirst()).allSatisfy(<))
    #expect(counts.first == IndexFormat.fewestBuckets)
    #expect(counts.last == IndexFormat.mostBuckets)
    #expect(IndexFormat.buckets(forGrowingFrom: IndexFormat.mostBuckets) == IndexFormat.mostBuckets)
    #expect(IndexFormat.buckets(forGrowingFrom: Int(Int32.max)) == IndexFormat.mostBuckets)
    #expect(IndexFormat.buckets(forShrinkingFrom: 1) == IndexFormat.fewestBuckets)
    #expect(IndexFormat.buckets(for: 0) == IndexFormat.fewestBuckets)
    #expect(IndexFormat.buckets(for: .max) == IndexFormat.mostBuckets)
    #expect(IndexFormat.growthThreshold(buckets: IndexFormat.mostBuckets) == IndexFormat.mostBuckets)
    #expect(IndexFormat.shrinkThreshold(buckets: IndexFormat.fewestBuckets) == 0)
    #expect(IndexFormat.minimumEmpty(buckets: 1031) == 73)
  }

  @Test(arguments: RecordedGeneration.all)
  func `ids of an index stand at their home or behind what was there before`(generation: RecordedGeneration)
    throws
  {
    guard let index = try generation.index() else { return }
    let header = try IndexHeader(parsing: index, fileSize: index.count)
    #expect(header.encode() == Array(index.prefix(18)))
    var live = 0
    for bucket in 0..<header.buckets {
      let start = IndexFormat.headerSize + bucket * IndexFormat.bucketSize
      let segment = index[(start + 32)..<(start + 36)].reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
      guard segment != IndexFormat.emptySegment else { continue }
      let id = try #require(ObjectID(Array(index[start..<(start + 32)])))
      #expect(IndexFormat.homeBucket(of: id, buckets: header.buckets) == bucket)
      if segment != IndexFormat.deletedSegment { live += 1 }
    }
    #expect(live == header.entries)
  }
}
