import BorgFormat
import Disk
import SystemPackage

/// A stored index, looked up in its file: nothing of it is kept in memory.
///
/// Not mapped: a file that somebody cuts short, or that a disk fails to read, would end the process. A lookup is one
/// `pread` of some buckets. A class because several tables may stand upon one file.
final class IndexFile {
  let header: IndexHeader
  /// Buckets that were never used.
  let empties: Int
  private let file: OpenFile
  private let name: String
  private var window = [UInt8](repeating: 0, count: windowBuckets * IndexFormat.bucketSize)

  /// Buckets that are read at a time for a lookup: at three quarters full, a search for what is there looks at three on
  /// average, and copying more of them takes longer than a second call now and then.
  private static let windowBuckets = 16

  /// Buckets that are read at a time when all are: 1 MiB.
  static let blockBuckets = (1 << 20) / IndexFormat.bucketSize

  /// Why a stored index is not to be relied on.
  struct Corruption: Error {
    let text: String
  }

  /// Opens the file `name` and reads it once: its digest has to be the expected one, if there is one, and it has to hold
  /// as many entries as it says.
  ///
  /// `label` is the repository's path as the client spells it, for messages.
  init(_ name: String, in root: Directory, label: String, expecting digest: FileDigest?) throws(Corruption) {
    do {
      file = try root.file(name)
      let size = try file.size()
      let head = try file.read(at: 0, count: IndexFormat.headerSize)
      header = try IndexHeader(parsing: head.span, fileSize: size)
      var digester = FileDigester(fileName: name)
      digester.update(head, head.indices)
      digester.part("HashHeader", at: head.count)
      var (live, empty) = (0, 0)
      var block = [UInt8](
        repeating: 0, count: min(header.buckets, Self.blockBuckets) * IndexFormat.bucketSize)
      var offset = head.count
      while offset < size {
        let length = min(block.count, size - offset)
        guard try file.read(at: offset, into: &block, count: length) == length else {
          throw Corruption(text: "Incorrect file length")
        }
        digester.update(block, 0..<length)
        Self.count(block, length, &live, &empty)
        offset += length
      }
      digester.part("final", at: size)
      guard live == header.entries else {
        throw Corruption(text: "Index holds \(live) entries and says \(header.entries)")
      }
      if let digest, digest.isKnown, !digester.matches(digest) {
        throw Corruption(text: "File failed integrity check: \(label)/\(name)")
      }
      empties = empty
      self.name = name
    } catch let corruption as Corruption {
      throw corruption
    } catch let fault as IndexFault {
      throw Corruption(text: fault.message)
    } catch let error as Errno {
      throw Corruption(text: "[Errno \(error.rawValue)] \(error.description): '\(label)/\(name)'")
    } catch {
      throw Corruption(text: "\(error)")
    }
  }

  private static func count(_ block: [UInt8], _ length: Int, _ live: inout Int, _ empty: inout Int) {
    let bytes = block.span
    var offset = ObjectID.size
    while offset < length {
      // The marks differ from each other and from all segments in these two bytes.
      if bytes[offset + 3] == 0xff && bytes[offset + 1] == 0xff && bytes[offset + 2] == 0xff {
        switch bytes[offset] {
        case 0xff: empty += 1
        case 0xfe: break
        default: live += 1
        }
      } else {
        live += 1
      }
      offset += IndexFormat.bucketSize
    }
  }

  /// Bytes of the file.
  var size: Int { header.fileSize }

  /// Reads buckets into `block`, from its beginning.
  func read(_ buckets: Range<Int>, into block: inout [UInt8]) throws(ServeError) {
    let length = buckets.count * IndexFormat.bucketSize
    let count = try ServeError.doing("read", name) { () throws(Errno) in
      try file.read(
        at: IndexFormat.headerSize + buckets.lowerBound * IndexFormat.bucketSize, into: &block, count: length)
    }
    guard count == length else { throw .integrity("\(name) ended early") }
  }

  /// The number of the bucket that holds the id, and its value; nil if none does.
  func find(_ id: ObjectID) throws(ServeError) -> (bucket: Int, location: EntryLocation)? {
    let wanted = IndexBucket(id, 0)
    var found: (bucket: Int, location: EntryLocation)?
    try probe(from: wanted.home(of: header.buckets)) { number, bucket in
      if bucket.isEmpty { return false }
      guard !bucket.isDeleted, bucket.hasKey(of: wanted) else { return true }
      found = (number, EntryLocation(packed: bucket.value))
      return false
    }
    return found
  }

  /// Shows the buckets from a number on, around the end of the table, once each at most, for as long as `goesOn` says so.
  func probe(from home: Int, _ goesOn: (Int, IndexBucket) -> Bool) throws(ServeError) {
    var (start, left) = (home, header.buckets)
    while left > 0 {
      let count = min(Self.windowBuckets, header.buckets - start, left)
      try read(start..<start + count, into: &window)
      for index in 0..<count {
        let bucket = IndexBucket(in: window, at: index * IndexFormat.bucketSize)
        guard goesOn(start + index, bucket) else { return }
      }
      left -= count
      start = start + count == header.buckets ? 0 : start + count
    }
  }
}

extension IndexBucket {
  /// The bucket that begins at a byte of `bytes`.
  init(in bytes: [UInt8], at offset: Int) {
    let span = bytes.span
    key0 = span.littleEndianUInt64(at: offset)
    key1 = span.littleEndianUInt64(at: offset + 8)
    key2 = span.littleEndianUInt64(at: offset + 16)
    key3 = span.littleEndianUInt64(at: offset + 24)
    value = span.littleEndianUInt64(at: offset + 32)
  }

  /// Writes the bucket's bytes.
  func write(to bytes: inout [UInt8], at offset: Int) {
    var position = offset
    for word in [key0, key1, key2, key3, value] {
      for shift in stride(from: UInt64(0), to: 64, by: 8) {
        bytes[position] = UInt8(truncatingIfNeeded: word &>> shift)
        position += 1
      }
    }
  }
}
