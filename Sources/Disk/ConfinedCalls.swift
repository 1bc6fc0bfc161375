import SystemPackage

/// `DiskCalls` for a session whose paths are restricted: no name leads out of what is granted, whatever
/// links somebody has put into the repository.
///
/// Names are opened beneath their directory by the kernel (`openat2`). Where a link leads out of the
/// directory, but not out of the granted roots, it is followed; for instance when an administrator has moved
/// `data` to another disk. Calls that take a name and no such flag (`renameat`, `mkdirat`, `unlinkat`) get
/// the name's last component and a directory that was opened so.
struct ConfinedCalls: DiskCalls {
  private let base = SystemCalls()
  private let granted: GrantedRoots

  init(granted: GrantedRoots) {
    self.granted = granted
  }

  func open(_ name: String, in directory: RawDescriptor, _ mode: OpenMode) throws(Errno) -> RawDescriptor {
    try open(name, in: directory, SystemCalls.Opening(mode))
  }

  private func open(_ name: String, in directory: RawDescriptor, _ opening: SystemCalls.Opening)
    throws(Errno) -> RawDescriptor
  {
    do {
      return try base.open(Array(name.utf8), beneath: directory, opening, links: .followed)
    } catch .improperLink {
      return try openElsewhere(name, in: directory, opening)
    }
  }

  /// Opens a name on whose way a link leaves the directory.
  private func openElsewhere(_ name: String, in directory: RawDescriptor, _ opening: SystemCalls.Opening)
    throws(Errno) -> RawDescriptor
  {
    let place = try base.path(of: directory)
    let target = try RepositoryPath(resolving: place + Array("/\(name)".utf8))
    // What is not granted is denied: that it is there at all is nobody's business.
    guard let root = try granted.root(holding: target) else { throw .permissionDenied }
    let anchor = try base.openDirectory(root)
    defer { base.close(anchor) }
    return try base.open(target.path(below: root), beneath: anchor, opening, links: .refused)
  }

  /// Runs a call on the last component of a name, in the directory that the others lead to.
  private func inParent<Result>(
    of name: String, in directory: RawDescriptor,
    _ body: (RawDescriptor, String) throws(Errno) -> Result
  ) throws(Errno) -> Result {
    guard let parent = name.parentName else { return try body(directory, name) }
    let opened = try open(parent, in: directory, .handle)
    defer { base.close(opened) }
    return try body(opened, String(name[name.index(parent.endIndex, offsetBy: 1)...]))
  }

  func rename(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor,
    replacing: Bool
  ) throws(Errno) {
    try inParent(of: name, in: directory) { (source, last) throws(Errno) in
      try inParent(of: newName, in: newDirectory) { (target, newLast) throws(Errno) in
        try base.rename(last, in: source, to: newLast, in: target, replacing: replacing)
      }
    }
  }

  func link(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor
  ) throws(Errno) {
    try inParent(of: name, in: directory) { (source, last) throws(Errno) in
      try inParent(of: newName, in: newDirectory) { (target, newLast) throws(Errno) in
        try base.link(last, in: source, to: newLast, in: target)
      }
    }
  }

  func unlink(_ name: String, in directory: RawDescriptor) throws(Errno) {
    try inParent(of: name, in: directory) { (parent, last) throws(Errno) in
      try base.unlink(last, in: parent)
    }
  }

  func makeDirectory(_ name: String, in directory: RawDescriptor) throws(Errno) {
    try inParent(of: name, in: directory) { (parent, last) throws(Errno) in
      try base.makeDirectory(last, in: parent)
    }
  }

  func removeDirectory(_ name: String, in directory: RawDescriptor) throws(Errno) {
    try inParent(of: name, in: directory) { (parent, last) throws(Errno) in
      try base.removeDirectory(last, in: parent)
    }
  }

  func status(_ name: String, in directory: RawDescriptor) throws(Errno) -> FileStatus {
    if name.isEmpty { return try base.status(name, in: directory) }
    let own = try inParent(of: name, in: directory) { (parent, last) throws(Errno) in
      try base.statusOfLink(last, in: parent)
    }
    if let own { return own }
    let opened = try open(name, in: directory, .handle)
    defer { base.close(opened) }
    return try base.status("", in: opened)
  }

  func close(_ descriptor: RawDescriptor) { base.close(descriptor) }

  func read(
    _ descriptor: RawDescriptor, at offset: Int, into buffer: inout [UInt8], from start: Int, count: Int
  ) throws(Errno) -> Int {
    try base.read(descriptor, at: offset, into: &buffer, from: start, count: count)
  }

  func read(_ descriptor: RawDescriptor, at offset: Int, count: Int, appendingTo buffer: inout [UInt8])
    throws(Errno) -> Int
  {
    try base.read(descriptor, at: offset, count: count, appendingTo: &buffer)
  }

  func send(_ descriptor: RawDescriptor, at offset: Int, count: Int, to output: RawDescriptor)
    throws(Errno) -> Int?
  {
    try base.send(descriptor, at: offset, count: count, to: output)
  }

  func write(_ descriptor: RawDescriptor, at offset: Int, _ bytes: [UInt8], _ range: Range<Int>)
    throws(Errno)
  {
    try base.write(descriptor, at: offset, bytes, range)
  }

  func startWriteback(_ descriptor: RawDescriptor, at offset: Int, count: Int) {
    base.startWriteback(descriptor, at: offset, count: count)
  }

  func sync(_ descriptor: RawDescriptor) throws(Errno) { try base.sync(descriptor) }

  func syncData(_ descriptor: RawDescriptor) throws(Errno) { try base.syncData(descriptor) }

  func syncFileSystem(_ descriptor: RawDescriptor) throws(Errno) { try base.syncFileSystem(descriptor) }

  func entries(of directory: RawDescriptor) throws(Errno) -> [String] { try base.entries(of: directory) }

  func lock(_ descriptor: RawDescriptor, _ kind: LockKind, waits: Bool) throws(Errno) -> Bool {
    try base.lock(descriptor, kind, waits: waits)
  }

  func facts(_ descriptor: RawDescriptor) throws(Errno) -> FileSystemFacts { try base.facts(descriptor) }
}
