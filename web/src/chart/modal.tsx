// A dialog over the page: the browser keeps the focus in it, and Escape closes it.
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef } from 'preact/hooks'

interface ModalProps { title: string; className?: string; onClose: () => void; children: ComponentChildren }

export function Modal({ title, className = '', onClose, children }: ModalProps) {
  const element = useRef<HTMLDialogElement>(null)
  useLayoutEffect(() => {
    const dialog = element.current
    dialog?.showModal()
    const first = element.current?.querySelector<HTMLElement>('[autofocus]')
    first?.focus()
    if (first instanceof HTMLInputElement) first.setSelectionRange(first.value.length, first.value.length)
    return () => dialog?.close() // gives the focus back to where it was
  }, [])
  return (
    <dialog
      ref={element} class={className} aria-label={title}
      onCancel={(event) => { event.preventDefault(); onClose() }}
      onClick={({ target }) => { if (target === element.current) onClose() }}
    >
      <div class="modal">{children}</div>
    </dialog>
  )
}
