import BorgFormat
import Disk
import SystemPackage

/// Looks at what repositories hold, from outside and without keys: for their metrics.
struct RepositoryLook {
  let root: RepositoryPath
  let patterns: [RepositoryPattern]
  let quotas: [RepositoryName: UInt64]
  /// Asked between directories whether to go on.
  let isOver: () -> Bool

  /// All repositories that somebody is granted and that are there. Blocking, and slow: every object is looked at.
  func facts() -> [RepositoryName: RepositoryFacts] {
    var all: [RepositoryName: RepositoryFacts] = [:]
    guard let top = try? root.open() else { return all }
    for pattern in patterns {
      for (name, directory) in matches(of: pattern.components[...], in: top, under: []) where all[name] == nil
      {
        guard !isOver() else { return all }
        if let facts = facts(directory) { all[name] = facts }
        all[name]?.quota = quotas[name]
      }
    }
    return all
  }

  private func matches(of components: ArraySlice<String?>, in directory: Directory, under path: [String])
    -> [(RepositoryName, Directory)]
  {
    guard let first = components.first else {
      return RepositoryName(path.joined(separator: "/")).map { [($0, directory)] } ?? []
    }
    let names = first.map { [$0] } ?? ((try? directory.entries()) ?? []).sorted()
    return names.flatMap { name -> [(RepositoryName, Directory)] in
      guard RepositoryName(name) != nil, let inner = try? directory.directory(name) else { return [] }
      return matches(of: components.dropFirst(), in: inner, under: path + [name])
    }
  }

  /// Nil for a directory that is no store of Borg's.
  private func facts(_ directory: Directory) -> RepositoryFacts? {
    guard let config = try? directory.status("config"), config.kind == .directory else { return nil }
    var facts = RepositoryFacts()
    facts.lookedAt = Host.now() / 1000
    count(directory, into: &facts, depth: 0)
    guard let archives = try? directory.directory("archives") else { return facts }
    for name in (try? archives.entries()) ?? [] where !name.hasSuffix(".del") && !StoreName.isHidden(name) {
      guard let status = try? archives.status(name), status.kind == .file else { continue }
      facts.archives += 1
      facts.lastBackup = max(facts.lastBackup ?? 0, status.modified)
    }
    return facts
  }

  private func count(_ directory: Directory, into facts: inout RepositoryFacts, depth: Int) {
    guard depth < 6, !isOver() else { return }
    for name in (try? directory.entries()) ?? [] where !StoreName.isHidden(name) {
      guard let status = try? directory.status(name) else { continue }
      switch status.kind {
      case .file:
        facts.objects += 1
        facts.bytes += status.size
      case .directory:
        if let inner = try? directory.directory(name) { count(inner, into: &facts, depth: depth + 1) }
      case .other: break
      }
    }
  }
}
