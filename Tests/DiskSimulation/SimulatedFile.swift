import TestKit
/// A file's bytes as programs see them, and as the disk has them.
struct SimulatedFile: Sendable {
  /// Bytes that reach the disk together. Small, so that small objects can be torn.
  static let pageSize = 64

  /// What reads give.
  private(set) var bytes: [UInt8] = []
  /// What a power cut leaves at least.
  private var durable: [UInt8] = []
  /// Pages that were written and not synced since.
  private var dirtyPages: Set<Int> = []
  private var hasNewSize = false
  /// Names that programs see, and open descriptors: a file without either takes no space.
  var links = 0
  var descriptors = 0
  var device = SimulatedFileSystem.rootDevice
  var writebackError = WritebackError()

  var isDirty: Bool { hasNewSize || !dirtyPages.isEmpty }

  /// A file whose bytes are on the disk.
  init(durable bytes: [UInt8] = []) { (self.bytes, self.durable) = (bytes, bytes) }

  mutating func write(_ new: ArraySlice<UInt8>, at offset: Int) {
    guard !new.isEmpty else { return }
    if offset > bytes.count { bytes += [UInt8](repeating: 0, count: offset - bytes.count) }
    let end = offset + new.count
    if end > bytes.count { hasNewSize = true }
    bytes.replaceSubrange(offset..<min(end, bytes.count), with: new)
    dirtyPages.formUnion(offset / Self.pageSize...(end - 1) / Self.pageSize)
  }

  mutating func sync() {
    writeBack(dirtyPages, size: bytes.count)
    forgetChanges()
  }

  /// What Linux does when write-back fails: the pages count as clean, and are not on the disk.
  mutating func forgetChanges() {
    dirtyPages = []
    hasNewSize = false
  }

  /// Leaves what a power cut may leave: nothing of what was not synced, all of it, a shorter file, or pages
  /// in any mixture, with zeros where a page is missing.
  mutating func cutPower(_ fate: Fate, using generator: inout SeededGenerator) {
    defer {
      forgetChanges()
      bytes = durable
    }
    guard isDirty else { return }
    switch fate {
    case .lost: return
    case .kept: writeBack(dirtyPages, size: bytes.count)
    case .mixed:
      let pages = dirtyPages.sorted().filter { _ in Bool.random(using: &generator) }
      let shortest = min(durable.count, bytes.count)
      let size: Int =
        switch Int.random(in: 0..<3, using: &generator) {
        case 0: durable.count
        case 1: bytes.count
        default: Int.random(in: shortest...max(bytes.count, durable.count), using: &generator)
        }
      writeBack(Set(pages), size: size)
    }
  }

  private mutating func writeBack(_ pages: Set<Int>, size: Int) {
    if size < durable.count { durable.removeLast(durable.count - size) }
    durable += [UInt8](repeating: 0, count: size - durable.count)
    for page in pages {
      let start = page * Self.pageSize
      let end = min(start + Self.pageSize, size, bytes.count)
      if start < end { durable.replaceSubrange(start..<end, with: bytes[start..<end]) }
    }
  }
}

/// What happens in a power cut to changes that nobody synced.
enum Fate: CaseIterable { case lost, kept, mixed }
