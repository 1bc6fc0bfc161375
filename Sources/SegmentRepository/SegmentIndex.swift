import BorgFormat
import Disk

/// Where each object is: what the stored index says, and what has changed since.
///
/// Changes are kept in a table of their own, so that opening a repository costs no memory for its objects, and a small
/// commit copies the stored table with a few buckets exchanged.
struct SegmentIndex {
  private let base: IndexFile?
  private var changes = IndexTable()
  /// Objects in the index.
  private(set) var count: Int

  /// An empty index.
  init() { (base, count) = (nil, 0) }

  init(_ base: IndexFile) { (self.base, count) = (base, base.header.entries) }

  func location(of id: ObjectID) throws(ServeError) -> EntryLocation? {
    if changes.count > 0, let value = changes.value(id) {
      return value == IndexBucket.removal ? nil : EntryLocation(packed: value)
    }
    return try base?.find(id)?.location
  }

  /// Gives an object its place; `isNew` says that it had none.
  mutating func set(_ id: ObjectID, to location: EntryLocation, isNew: Bool) {
    changes.set(id, location.packed)
    if isNew { count += 1 }
  }

  /// Takes an object out that is in the index.
  mutating func remove(_ id: ObjectID) {
    if base == nil { changes.remove(id) } else { changes.set(id, IndexBucket.removal) }
    count -= 1
  }

  // MARK: Listing

  /// Up to `limit` objects behind `marker` in the order of the tables, the stored one first. Nil if the marker is not in
  /// the index.
  func page(after marker: ObjectID?, limit: Int) throws(ServeError) -> [ObjectID]? {
    var ids: [ObjectID] = []
    var (baseStart, tableStart) = (0, 0)
    if let marker {
      if let bucket = changes.find(marker) {
        guard changes[bucket].value != IndexBucket.removal else { return nil }
        (baseStart, tableStart) = (base?.header.buckets ?? 0, bucket + 1)
      } else if let bucket = try base?.find(marker)?.bucket {
        baseStart = bucket + 1
      } else {
        return nil
      }
    }
    try forEachStored(from: baseStart) { id, _ in
      guard ids.count < limit else { return false }
      ids.append(id)
      return true
    }
    var bucket = tableStart
    while bucket < changes.buckets && ids.count < limit {
      if let (id, _) = changes.live(bucket) { ids.append(id) }
      bucket += 1
    }
    return ids
  }

  /// Shows all objects, until `goesOn` says otherwise.
  func forEach(_ goesOn: (ObjectID, EntryLocation) -> Bool) throws(ServeError) {
    var isDone = false
    try forEachStored(from: 0) { id, location in
      isDone = !goesOn(id, location)
      return !isDone
    }
    guard !isDone else { return }
    for bucket in 0..<changes.buckets {
      if let (id, location) = changes.live(bucket), !goesOn(id, location) { return }
    }
  }

  /// Shows what the stored table holds from a bucket on and no change concerns.
  private func forEachStored(from start: Int, _ goesOn: (ObjectID, EntryLocation) -> Bool) throws(ServeError)
  {
    guard let base, start < base.header.buckets else { return }
    var first = start
    // Small at first: a page is often short.
    var count = 64
    var block: [UInt8] = []
    while first < base.header.buckets {
      count = min(count, base.header.buckets - first)
      if block.count < count * IndexFormat.bucketSize {
        block = [UInt8](repeating: 0, count: count * IndexFormat.bucketSize)
      }
      try base.read(first..<first + count, into: &block)
      for index in 0..<count {
        let bucket = IndexBucket(in: block, at: index * IndexFormat.bucketSize)
        guard !bucket.isEmpty, !bucket.isDeleted else { continue }
        let id = bucket.id
        guard changes.count == 0 || changes.find(id) == nil else { continue }
        guard goesOn(id, EntryLocation(packed: bucket.value)) else { return }
      }
      first += count
      count = min(count * 4, IndexFile.blockBuckets)
    }
  }

  // MARK: Writing

  /// Bytes that the index takes when it is stored.
  var storedSize: Int { IndexHeader(entries: count, buckets: plannedBuckets).fileSize }

  /// Buckets of the table that is to be stored: the stored one's, as long as it is neither crowded nor nearly empty.
  private var plannedBuckets: Int {
    guard let base, fits(base) else { return max(IndexFormat.buckets(for: count), 1031) }
    return base.header.buckets
  }

  private func fits(_ base: IndexFile) -> Bool {
    let buckets = base.header.buckets
    return count <= IndexFormat.growthThreshold(buckets: buckets)
      && count >= IndexFormat.shrinkThreshold(buckets: buckets)
      && base.empties - changes.count > IndexFormat.minimumEmpty(buckets: buckets)
      && changes.count <= buckets / 8
  }

  /// Writes the index, block by block: its header first, 18 bytes.
  func write(_ write: ([UInt8], Range<Int>) throws(ServeError) -> Void) throws(ServeError) {
    let header = IndexHeader(entries: count, buckets: plannedBuckets)
    let head = header.encode()
    try write(head, head.indices)
    if let base, fits(base) {
      try writePatched(base, write)
    } else if base == nil, changes.buckets == header.buckets {
      try changes.write(write)
    } else {
      var table = IndexTable(buckets: header.buckets)
      try forEach { id, location in
        table.insertNew(id, location)
        return true
      }
      try table.write(write)
    }
  }

  /// Copies the stored table with the changed buckets in their places.
  private func writePatched(_ base: IndexFile, _ write: ([UInt8], Range<Int>) throws(ServeError) -> Void)
    throws(ServeError)
  {
    let patches = try patches(for: base).sorted { $0.key < $1.key }
    var next = 0
    var block = [UInt8](
      repeating: 0, count: min(base.header.buckets, IndexFile.blockBuckets) * IndexFormat.bucketSize)
    var first = 0
    while first < base.header.buckets {
      let count = min(IndexFile.blockBuckets, base.header.buckets - first)
      try base.read(first..<first + count, into: &block)
      while next < patches.count, patches[next].key < first + count {
        patches[next].value.write(to: &block, at: (patches[next].key - first) * IndexFormat.bucketSize)
        next += 1
      }
      try write(block, 0..<count * IndexFormat.bucketSize)
      first += count
    }
  }

  /// The buckets of the stored table that change, and what they become.
  private func patches(for base: IndexFile) throws(ServeError) -> [Int: IndexBucket] {
    var patches: [Int: IndexBucket] = [:]
    var inserted: [IndexBucket] = []
    for number in 0..<changes.buckets {
      var bucket = changes[number]
      guard !bucket.isEmpty, !bucket.isDeleted else { continue }
      guard let stored = try base.find(bucket.id) else {
        if bucket.value != IndexBucket.removal { inserted.append(bucket) }
        continue
      }
      // Of a deleted one key and offset stay, as in the original's tables.
      if bucket.value == IndexBucket.removal {
        bucket.value = stored.location.packed & ~0xffff_ffff | IndexBucket.deleted
      }
      patches[stored.bucket] = bucket
    }
    for bucket in inserted {
      var free: Int?
      try base.probe(from: bucket.home(of: base.header.buckets)) { number, found in
        guard patches[number] == nil, found.isEmpty || found.isDeleted else { return true }
        free = number
        return false
      }
      guard let free else { throw .integrity("the index has no room") }
      patches[free] = bucket
    }
    return patches
  }
}

extension IndexTable {
  /// What a bucket holds, unless it is empty, deleted or a removal.
  func live(_ number: Int) -> (ObjectID, EntryLocation)? {
    let bucket = self[number]
    guard !bucket.isEmpty, !bucket.isDeleted, bucket.value != IndexBucket.removal else { return nil }
    return (bucket.id, EntryLocation(packed: bucket.value))
  }

  /// Writes all buckets, block by block.
  func write(_ write: ([UInt8], Range<Int>) throws(ServeError) -> Void) throws(ServeError) {
    var block = [UInt8](repeating: 0, count: min(buckets, IndexFile.blockBuckets) * IndexFormat.bucketSize)
    var first = 0
    while first < buckets {
      let count = min(IndexFile.blockBuckets, buckets - first)
      copyWords(words, from: first * IndexBucket.words, count: count * IndexBucket.words, to: &block, at: 0)
      try write(block, 0..<count * IndexFormat.bucketSize)
      first += count
    }
  }
}
