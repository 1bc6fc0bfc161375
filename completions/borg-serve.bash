# Completion of borg-serve for bash. Install as /usr/share/bash-completion/completions/borg-serve, or source it.

_borg_serve() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=serve options
  # Bash takes = for a word of its own.
  if [[ $current == "=" ]]; then
    current=
  elif [[ $previous == "=" ]] && ((COMP_CWORD > 1)); then
    previous=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  [[ ${COMP_WORDS[1]} == authorize ]] && ((COMP_CWORD > 1)) && command=authorize
  [[ ${COMP_WORDS[1]} == listen ]] && ((COMP_CWORD > 1)) && command=listen

  COMPREPLY=()
  case $command:$previous in
    *:--permissions)
      COMPREPLY=($(compgen -W 'all no-delete write-only read-only' -- "$current"))
      return
      ;;
    *:--restrict-to-path | *:--restrict-to-repository)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -d -- "$current")
      return
      ;;
    listen:--root)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -d -- "$current")
      return
      ;;
    listen:--address) return ;;
    listen:--config | listen:-c | listen:--check-config | listen:--socket | listen:--credentials | \
      authorize:--program | serve:--socket | serve:--debug-profile | serve:--config | serve:--remote-path | serve:--rsh | \
      serve:--repo | serve:-r)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
      ;;
    serve:--debug-topic | serve:--lock-wait | serve:--umask | serve:--max-connections | serve:--idle-timeout | \
      serve:--storage-quota | serve:--backend | serve:--*-ratelimit | serve:--*-buffer)
      return
      ;;
  esac

  if [[ $command == authorize ]]; then
    options='--restrict-to-path --restrict-to-repository --permissions --program --unrestricted --help -h'
    if [[ $current != -* ]]; then
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
    fi
  elif [[ $command == listen ]]; then
    options='--config --check-config --root --address --socket --credentials --version --help -h'
  else
    options='--restrict-to-path --restrict-to-repository --permissions --append-only --storage-quota
      --socket --max-connections --idle-timeout --umask --rest --backend
      --critical --error --warning --info --verbose -v --debug --debug-topic --show-version
      --lock-wait --help -h'
    [[ " ${COMP_WORDS[*]:1:COMP_CWORD-1} " == *" serve "* ]] || options+=' --version -V serve'
    ((COMP_CWORD > 1)) || options+=' authorize listen'
  fi
  COMPREPLY=($(compgen -W "$options" -- "$current"))
}

complete -F _borg_serve borg-serve
