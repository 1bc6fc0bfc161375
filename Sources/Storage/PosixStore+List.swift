public import BorgFormat
import Disk
import SystemPackage

extension PosixStore {
  public func list(_ directory: String, deleted: Bool) throws(ServeError) -> [ListedObject]? {
    let data = Namespace.data.rawValue
    if directory.isEmpty || directory == data || directory.hasPrefix(data + "/") {
      try barrier(durable: false)
    }
    let found: [ListedObject]? = try ServeError.doing("list", directory) { () throws(Errno) in
      let top: Directory
      do throws(Errno) {
        top = try root.directory(directory.isEmpty ? "." : directory)
      } catch .noSuchFileOrDirectory {
        return nil
      }
      var found: [ListedObject] = []
      try walk(top, deleted: deleted, depth: 0, into: &found)
      return found
    }
    guard found?.count ?? 0 <= Limits.listPage else {
      throw .argumentValue("more than \(Limits.listPage) objects in '\(directory)'")
    }
    return found
  }

  /// Deeper than any nesting of keys; links that lead back up end here.
  private static let deepestWalk = 40

  private func walk(_ directory: Directory, deleted: Bool, depth: Int, into found: inout [ListedObject])
    throws(Errno)
  {
    guard depth < Self.deepestWalk else { return }
    for entry in try directory.entries().sorted(by: Self.byBytes) {
      guard found.count <= Limits.listPage else { return }
      // Gone since, or a dangling link: not there.
      guard !StoreName.isHidden(entry), let status = try directory.status(entry) else { continue }
      if status.kind == .directory {
        guard let inner = try existing({ () throws(Errno) in try directory.directory(entry) }) else {
          continue
        }
        try walk(inner, deleted: deleted, depth: depth + 1, into: &found)
        continue
      }
      guard entry.hasSuffix(StoreName.deletedSuffix) == deleted else { continue }
      let name = deleted ? String(entry.dropLast(StoreName.deletedSuffix.count)) : entry
      found.append(ListedObject(name: name, size: status.size))
    }
  }

  public func objects(after marker: ObjectID?, limit: Int, foreign: (String) -> Void)
    throws(ServeError) -> [ListedID]?
  {
    try barrier(durable: false)
    return try ServeError.doing("list", Namespace.data.rawValue) { () throws(Errno) in
      guard let top = try existing({ () throws(Errno) in try root.directory(Namespace.data.rawValue) }) else {
        return nil
      }
      var found: [ListedID] = []
      let page = Page(marker: marker, limit: limit)
      try walkObjects(top, Namespace.data.rawValue, page, prefix: "", foreign, &found)
      return found
    }
  }

  private struct Page {
    let marker: ObjectID?
    let markerHex: String
    let limit: Int

    init(marker: ObjectID?, limit: Int) {
      self.marker = marker
      self.markerHex = marker?.hex ?? ""
      self.limit = limit
    }
  }

  /// Walks `data/` in order of ids, from the marker on: directories that hold only smaller ids are not
  /// even opened.
  private func walkObjects(
    _ directory: Directory, _ path: String, _ page: Page, prefix: String, _ foreign: (String) -> Void,
    _ found: inout [ListedID]
  ) throws(Errno) {
    let isLeaf = prefix.utf8.count >= 2 * options.dataLevels
    for entry in try directory.entries().sorted(by: Self.byBytes) {
      guard found.count < page.limit else { return }
      guard !StoreName.isHidden(entry), !entry.hasSuffix(StoreName.deletedSuffix) else { continue }
      if isLeaf {
        // An object under another's directory would be listed but never found.
        guard let id = ObjectID(hex: entry), entry == id.hex, entry.hasPrefix(prefix) else {
          foreign("\(path)/\(entry)")
          continue
        }
        if let marker = page.marker, id <= marker { continue }
        guard let status = try directory.status(entry) else { continue }
        guard status.kind == .file else {
          foreign("\(path)/\(entry)")
          continue
        }
        found.append(ListedID(id: id, size: status.size))
      } else {
        let inner = prefix + entry
        guard entry.utf8.count == 2, entry.utf8.allSatisfy(Self.isHexDigit) else {
          foreign("\(path)/\(entry)")
          continue
        }
        if Self.byBytes(inner, String(page.markerHex.prefix(inner.count))) { continue }
        let opened: Directory?
        do {
          opened = try existing { () throws(Errno) in try directory.directory(entry) }
        } catch .notDirectory {
          foreign("\(path)/\(entry)")
          continue
        }
        guard let opened else { continue }
        try walkObjects(opened, "\(path)/\(entry)", page, prefix: inner, foreign, &found)
      }
    }
  }

  private static func isHexDigit(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
      || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
  }

  /// The order of the original: by bytes, not by Unicode's equivalences.
  private static func byBytes(_ left: String, _ right: String) -> Bool {
    left.utf8.lexicographicallyPrecedes(right.utf8)
  }

  /// What the body opens, or nil if it is not there.
  private func existing<Opened>(_ body: () throws(Errno) -> Opened) throws(Errno) -> Opened? {
    do {
      return try body()
    } catch .noSuchFileOrDirectory {
      return nil
    }
  }
}
