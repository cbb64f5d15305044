// A dialog over the page: the browser keeps the focus in it, and Escape closes it.
import type { ComponentChildren } from 'preact'
import { useEffect, useRef } from 'preact/hooks'

interface ModalProps { title: string; className?: string; onClose: () => void; children: ComponentChildren }

export function Modal({ title, className = '', onClose, children }: ModalProps) {
  const element = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    element.current?.showModal()
    element.current?.querySelector<HTMLElement>('[autofocus]')?.focus()
  }, [])
  return (
    <dialog
      ref={element} class={className} aria-label={title} onClose={onClose}
      onClick={({ target }) => { if (target === element.current) onClose() }}
    >
      <div class="modal">{children}</div>
    </dialog>
  )
}
